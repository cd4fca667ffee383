"""What a pruning method is, and the training loop that it acts in.

No postponed annotations in this folder: fairseq reads the flags' types off the dataclasses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Optional

from torch import Tensor, nn

from neuroprune_fairseq.files.errors import refuse
from neuroprune_fairseq.method.sparsity import head_mask
from neuroprune_fairseq.structure import attention_blocks

AS_BEGUN = "resume with the same command, or start a run of its own with --finetune-from-model"


@dataclass
class Run:
    """What a pruner may know of the training run that it acts in.

    Example, a run of one worker in a test: ``Run(model, max_update=100)``.
    """

    model: nn.Module  # unwrapped
    seed: int = 1
    max_epoch: int = 0  # 0: no limit
    max_update: int = 0
    epoch: int = 1
    num_updates: int = 0  # of the whole run, also where --reset-optimizer made fairseq forget
    epoch_ends: Sequence[int] = ()  # updates of the whole run at every epoch's end, if it has one
    pace: tuple[int, ...] = ()  # the settings that the length depends on, apart from the corpus
    place: int = 0  # of the micro-batch among those of all workers in its update
    begins_update: bool = True  # whether the micro-batch is its worker's first in the update
    # The plain loss of the micro-batch, summed, without dropout and gradient; in after_batch only.
    loss_of_batch: Optional[Callable[[], Tensor]] = None  # (), fp64
    loss_scale: float = 1.0  # what the loss was multiplied with before the backward pass
    sum_over_workers: Callable[[Tensor], Tensor] = lambda values: values  # (n,), on the CPU

    @property
    def length(self) -> int:
        """Updates of the whole run, 0 where nothing limits it."""
        return self.epoch_ends[-1] if self.epoch_ends else 0


class Pruner:
    """A method that prunes a model while it trains: a plain object that knows nothing of fairseq.

    The training loop, with the place of every call::

        for every epoch:
            pruner.start(run)                  before its first batch, also of a resumed run
            for every update:
                for every micro-batch:
                    pruner.before_batch(run)
                    forward, backward
                    pruner.after_batch(run, sample_size)
                pruner.before_step(run)        the gradients are there
                optimizer.step()               unless pruner.trains_weights is False
                with the fp32 master weights as the model's parameters:
                    proximal step              of the penalties, if they have one
                    zeros.hold_()              against the optimizer's momentum
                    if pruner.after_step(run):     it made zeros
                        all workers take over the first one's weights
                        zeros = ZeroMask(model)
            pruner.end_epoch(run)              the paper's Algorithm 2; again with master weights;
                                               if pruner.needs_whole_run also where a run stops
                                               in the middle of its last epoch
            zeros = ZeroMask(model)
            measure, log                       heads, sparsities: one line of neuroprune.jsonl
            if --compact and pruner.may_cut:
                pruner.before_cut(model, plan)
                cut what is pruned out of model, optimizer and master weights
                if pruner.kept_as(run):    a name: write the model as checkpoint_NAME.pt
            pruner.before_validation(run)
            validate
            save                               a plain fairseq checkpoint + pruner.state_dict()

    A method overrides what it needs and nothing else. It edits ``run.model`` in place, in
    ``start``, ``after_step`` and ``end_epoch`` only. Every worker calls it with the same weights
    and gradients, so every worker decides the same.
    """

    trains_weights = True  # False: the optimizer's step is left out, all else goes on
    holds_weights = False  # True: every zero of the prunable weights is held, not only what is
    # pruned as a whole (heads, neurons)
    needs_whole_run = False  # True: what it does depends on when the run ends
    may_cut = True  # False while something refers to heads by their number
    ends_penalties = False  # True once the penalties have nothing more to do
    always_compact = False  # True: what it asks for is a smaller model, so --compact is implied

    def start(self, run: Run) -> None:
        """Before the first batch of an epoch in this process; parameters are in fp32."""

    def before_batch(self, run: Run) -> None:
        """Before the forward pass of a micro-batch."""

    def after_batch(self, run: Run, sample_size: Any) -> None:
        """After its backward pass; ``sample_size`` is what its loss was summed over."""

    def before_step(self, run: Run) -> None:
        """Before every optimizer step; the model holds the gradients of this update."""

    def after_step(self, run: Run) -> bool:
        """After every optimizer step; ``run.num_updates`` counts it. Whether zeros were made."""
        return False

    def end_epoch(self, run: Run) -> dict[str, Any]:
        """After the last update of an epoch. Returns entries for the epoch's JSON line."""
        return {}

    def before_cut(self, model: nn.Module, plan: dict[str, Tensor]) -> None:
        """The model is going to be cut: forget what belongs to parts that the plan leaves out."""

    def kept_as(self, run: Run) -> Optional[str]:
        """At an epoch's end, after the cut: a name to keep the model under as it is now, if any."""
        return None

    def before_validation(self, run: Run) -> None:
        """Before an epoch's validation or one in its middle."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to be the same run: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a :meth:`state_dict`, before :meth:`start`."""


def head_records(
    model: nn.Module, replaced: Mapping[str, dict[int, Any]] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """One record per attention module for an epoch's JSON line.

    Args:
        model: a fairseq model.
        replaced: by module, the heads that went and what replaces each, if anything.

    Returns:
        ``module`` (its name), ``heads_kept`` (indices) and ``replaced``, in forward order.
    """
    return [
        {
            "module": block.name,
            "heads_kept": head_mask(block).nonzero().flatten().tolist(),
            "replaced": replaced.get(block.name, {}),
        }
        for block in attention_blocks(model)
    ]


@dataclass
class HeadTargetFlags:
    """How many heads a method that can be asked for a number ends with."""

    target_heads: Optional[int] = field(
        default=None,
        metadata={
            "help": "K: end with exactly this many heads of the whole model",
            "argparse_alias": "--heads-to-keep",
        },
    )


@dataclass
class SparsityTargetFlags:
    """How many zeros a method that can be asked for a share ends with."""

    target_sparsity: Optional[float] = field(
        default=None,
        metadata={"help": "share of zeros among all q, k, v, fc1, fc2 weights to end with"},
    )


def check_target_heads(heads: Optional[int], of: Optional[int] = None) -> None:
    """Refuse a number of heads that is missing, too small, or above what the model has.

    Args:
        heads: --target-heads.
        of: the heads that the model has, where they are known.

    Raises:
        SystemExit: one line.
    """
    if heads is None or heads < 1:
        refuse(f"--target-heads {heads} must be a number of heads of the whole model, at least 1")
    if of is not None and heads > of:
        refuse(f"--target-heads {heads} must be 1 to {of}, the heads that the model has")


def check_positive(**flags: float) -> None:
    """Refuse values that are not finite numbers above 0; a keyword names its flag."""
    for name, value in flags.items():
        if not 0 < value < float("inf"):
            refuse(f"--{name.replace('_', '-')} {value} must be a number above 0")


def check_not_negative(**flags: float) -> None:
    """Refuse values that are not finite numbers of at least 0; a keyword names its flag."""
    for name, value in flags.items():
        if not 0 <= value < float("inf"):
            refuse(f"--{name.replace('_', '-')} {value} must be a finite number >= 0")
