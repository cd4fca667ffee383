"""mutmut's command, which then also changes what stands under ``@torch.no_grad()``.

mutmut passes over decorated functions, as a decorator may do anything; with no_grad it would pass
over most functions that edit weights. The copies that it makes of such a function keep the
decorator, so all that has to change is which functions it looks into. mutmut has no setting for it.

Usage: python tests/mutate.py run | results | show NAME | browse; see docs/mutation.md
"""

from __future__ import annotations

import libcst
from mutmut.__main__ import cli
from mutmut.mutation.file_mutation import MutationVisitor

skips = MutationVisitor._skip_node_and_children


def is_no_grad(decorator: libcst.Decorator) -> bool:
    return libcst.Module([]).code_for_node(decorator.decorator) == "torch.no_grad()"


def skips_all_but_no_grad(self: MutationVisitor, node: libcst.CSTNode) -> bool:
    if isinstance(node, libcst.FunctionDef) and all(map(is_no_grad, node.decorators)):
        node = node.with_changes(decorators=[])
    return skips(self, node)


if __name__ == "__main__":
    MutationVisitor._skip_node_and_children = skips_all_but_no_grad
    cli()
