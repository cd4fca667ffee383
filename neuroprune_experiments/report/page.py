"""The page: what is put together from all sections, and written."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neuroprune_experiments.report.facts import ModelFacts
from neuroprune_experiments.report.panels import Section, Table

TITLE = "NeuroPrune report"


def models_table(models: Sequence[ModelFacts]) -> Table | None:
    """The table at the page's top; None without models."""
    if not models:
        return None
    columns = ["model", "method", "heads kept", "attention sparsity", "MLP sparsity"]
    rows = [[*columns, "total sparsity", "parameters", "updates"]]
    for model in models:
        name = f"{model.label} (compact)" if model.is_compact else model.label
        heads = f"{model.heads_kept} of {model.heads_total}"
        parts = (f"{model.sparsity[f'{part}_sparsity']:.3f}" for part in ("attn", "mlp", "total"))
        updates = "-" if model.num_updates is None else f"{model.num_updates:,}"
        rows.append([name, model.method, heads, *parts, f"{model.parameters:,}", updates])
    return Table("Models", rows, text_columns=2)


def render(
    sections: Sequence[Section],
    svgs: dict[str, list[str]],
    models: Sequence[ModelFacts],
    notes: Sequence[str],
) -> str:
    """The page as one HTML document that needs no other file.

    It is well-formed XML, too.

    Args:
        sections: in their order.
        svgs: the panels of every picture, by its name.
        models: for the table at the top.
        notes: lines for its end.
    """
    environment = Environment(
        loader=PackageLoader("neuroprune_experiments", "report"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    count = f"{len(models)} model{'s' if len(models) != 1 else ''}"
    return environment.get_template("page.html").render(
        title=TITLE,
        subtitle=f"What pruning did to {count}, figure by figure." if models else "Results.",
        sections=sections,
        svgs={name: list(map(Markup, panels)) for name, panels in svgs.items()},
        models=models_table(models),
        notes=notes,
    )
