"""Every picture. Colours are safe for colour-blind readers; each picture is PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # pictures go to files, also on a machine without a display
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from neuroprune_fairseq.files.atomic import replacing  # noqa: E402
from neuroprune_fairseq.files.text import document  # noqa: E402

# Okabe and Ito's palette, without its black and yellow; a marker for each as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
matplotlib.rcParams["text.parse_math"] = False  # a name with a $ is no formula


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg, each under a temporary name first.

    Returns:
        The two paths.
    """
    paths = []
    for suffix in ("png", "svg"):
        path = Path(f"{stem}.{suffix}")
        with replacing(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=200, bbox_inches="tight")
            if suffix == "svg":
                svg = temporary.read_text(encoding="utf-8")
                temporary.write_text(document(svg), encoding="utf-8")
        paths.append(path)
    plt.close(figure)
    return paths


def short_module_name(name: str) -> str:
    """'decoder.layers.3.encoder_attn' -> 'dec 3 cross'; other names stay as they are."""
    parts = name.split(".")[-4:]
    if len(parts) < 4:
        return name
    stack, _, layer, module = parts
    return f"{stack[:3]} {layer} {'cross' if module == 'encoder_attn' else 'self'}"


def _plot_bleu(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    """BLEU against heads kept, a point and a legend entry for each record."""
    for number, record in enumerate(records):
        # Past the last colour the markers move on by one, so that no two look the same.
        marker = MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": marker}
        label = f"{record['label']} (sparsity {record['total_sparsity']:.2f})"
        axes.plot(record["heads_kept"], record["bleu"], linestyle="", label=label, **style)
    axes.set_xlim(-3, max(record["heads_total"] for record in records) + 3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("heads kept")
    axes.set_ylabel("BLEU")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower left")


def _plot_head_map(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Heads kept in every attention module: a row for each record, the number in each cell."""
    modules = list(records[0]["heads_kept_per_module"])
    counts = [
        [record["heads_kept_per_module"].get(name, 0) for name in modules] for record in records
    ]
    most = max(map(max, counts))
    axes.imshow(counts, cmap="cividis", vmin=0, vmax=most, aspect="auto")
    for row, numbers in enumerate(counts):
        for column, number in enumerate(numbers):
            colour = "black" if number > most / 2 else "white"
            axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=7)
    names = map(short_module_name, modules)
    axes.set_xticks(range(len(modules)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(records)), [record["label"] for record in records], fontsize=7)
    axes.set_title("heads kept in each attention module", fontsize=9)


def draw_overview(records: Sequence[dict[str, Any]], stem: str | Path) -> list[Path]:
    """BLEU against heads kept, and where in the model the kept heads are.

    Args:
        records: of one architecture, as evaluate.sh writes them, at least one.
        stem: path of the picture without its suffix.

    Returns:
        The paths of the PNG and the SVG.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.2), width_ratios=(2, 3), layout="constrained"
    )
    _plot_bleu(left, records)
    _plot_head_map(right, records)
    return save_figure(figure, stem)
