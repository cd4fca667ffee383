"""Pictures of equal panels: each panel is inlined into the page, all together are a file.

Panels are narrow, so that they stand side by side on a desktop and below each other on a
phone without being scaled: text keeps its size.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from neuroprune_experiments.figures import COLOURS, plt
from neuroprune_experiments.frontier.figures import STYLES
from neuroprune_fairseq.files.text import document

# Inches; CSS draws 96 pixels an inch.
PANEL_WIDTH = 3.6
FONT_SIZE = 9
SPACE = 0.12  # between panels of a file
LEGEND_ROW = 0.19  # what a row of a legend below a panel takes
DPI = 200  # of PNG files
INK, PAPER, MUTED = "#000000", "#ffffff", "#767c87"
# In the page colours follow its theme, so that they suit light and dark.
THEME = {
    INK: "currentColor",
    PAPER: "var(--paper)",
    MUTED: "var(--soft)",
    **{colour.lower(): f"var(--colour-{number})" for number, colour in enumerate(COLOURS)},
}
DENSE_STYLE = (MUTED, "h")
# Numbers in COLOURS; the variants of DSP differ in their markers.
METHOD_COLOURS = {
    **{"neuroprune-target": 2, "voita": 3, "michel": 4, "l1": 5},
    **dict.fromkeys(("neuroprune", "neuroprune-proximal"), 0),
    **dict.fromkeys(("dsp", "dsp-pipelined", "dsp-straight-through"), 1),
}

_RC = {
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": FONT_SIZE,
    "lines.linewidth": 1.6,
    "image.composite_image": False,
    "svg.hashsalt": "neuroprune-report",  # the same ids every time
    "svg.fonttype": "none",  # text is text
}


@dataclass(frozen=True)
class Picture:
    """Panels of one size, and the names of the files that hold them all.

    ``panels`` maps what a panel shows, in words, to what draws it on an empty figure.
    """

    name: str
    panels: dict[str, Callable[[Figure], None]]
    height: float  # of a panel, in inches
    width: float = PANEL_WIDTH
    columns: int = 3  # in the files
    layout: str | None = "constrained"  # None where panels place everything themselves


@dataclass(frozen=True)
class Table:
    """Numbers under a figure: a row of titles, then the rest."""

    title: str
    rows: Sequence[Sequence[str]]
    text_columns: int = 1  # at the left; numbers follow


@dataclass(frozen=True)
class Section:
    """One figure of the page."""

    anchor: str
    title: str
    answers: str  # which of the paper's figures
    shows: str  # one sentence
    finding: str = ""  # what these files say
    notes: Sequence[str] = ()  # what to know before one reads it
    pictures: Sequence[Picture] = ()
    folded: Sequence[tuple[str, Picture]] = ()  # with their titles, shown on demand
    tables: Sequence[Table] = ()
    folded_table: Table | None = None


def method_style(method: str) -> tuple[str, str]:
    """Colour and marker of a method, the same in every picture."""
    if method not in METHOD_COLOURS:
        return DENSE_STYLE
    return COLOURS[METHOD_COLOURS[method]], STYLES[method][0]


def shorten(label: str, most: int = 44) -> str:
    """A label of at most so many characters, with an ellipsis in its middle."""
    half = (most - 1) // 2
    return label if len(label) <= most else f"{label[:half]}…{label[-half:]}"


def inch_axes(figure: Figure) -> Axes:
    """Axes without frame over a whole panel, in inches from its top left corner."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return axes


def new_axes(figure: Figure, **settings: object) -> Axes:
    """One pair of axes that fills a panel."""
    axes = figure.subplots()
    axes.set(**settings)
    return axes


def label_heads(axes: Axes, heads: int, left: float, cell: float, y: float) -> None:
    """Write the numbers of heads above their cells, as many as there is room for."""
    step = next(step for step in (1, 2, 5, 10, heads) if step * cell >= 0.2 or step >= heads)
    for head in range(0, heads, step):
        axes.text(left + cell * (head + 0.5), y, str(head), color=MUTED, ha="center", va="bottom")


@dataclass(frozen=True)
class DrawnPanel:
    """One panel, drawn."""

    label: str  # what it shows, in words
    svg: str  # a <svg> element with lengths in points
    png: Image.Image


def _bare_svg(text: str, prefix: str) -> str:
    """The element of a matplotlib SVG file, with ids that are unique where it is put.

    Only ids that something refers to are kept: matplotlib gives equal images the same.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = {*re.findall(r'(?:href="#|url\(#)([^")]+)', text)}
    text = re.sub(
        r'\s+id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text
    )
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def draw_panels(picture: Picture) -> list[DrawnPanel]:
    """Draw the panels of a picture, one by one."""
    found = []
    with plt.rc_context(_RC):
        for number, (label, draw) in enumerate(picture.panels.items()):
            figure = plt.figure(figsize=(picture.width, picture.height), layout=picture.layout)
            draw(figure)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # both files have what was found just now
            svg, png = io.StringIO(), io.BytesIO()
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
            figure.savefig(png, format="png", dpi=DPI)
            plt.close(figure)
            element = _bare_svg(document(svg.getvalue()), f"{picture.name}-{number}")
            found.append(DrawnPanel(label, element, Image.open(png)))
    return found


def inline_svg(panel: DrawnPanel) -> str:
    """A panel as part of a page: it follows the page's colours and has a text for its picture."""
    svg = panel.svg
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(panel.label)}"', 1)


def _places(picture: Picture) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """Size of all panels together and the place of each, in inches."""
    columns = min(picture.columns, len(picture.panels))
    rows = -(-len(picture.panels) // columns)
    step = (picture.width + SPACE, picture.height + SPACE)
    size = (columns * step[0] + SPACE, rows * step[1] + SPACE)
    numbers = range(len(picture.panels))
    return size, [
        (SPACE + step[0] * (number % columns), SPACE + step[1] * (number // columns))
        for number in numbers
    ]


def joined_svg(picture: Picture, panels: Sequence[DrawnPanel]) -> str:
    """All panels of a picture as one SVG file on white."""
    size, places = _places(picture)
    width, height = (72 * side for side in size)
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}pt" height="{height:g}pt"'
        f' viewBox="0 0 {width:g} {height:g}">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for panel, (x, y) in zip(panels, places):
        start, _, rest = panel.svg.partition(">")
        start = re.sub(r'((?:width|height)="[\d.]+)pt"', r'\1"', start)
        parts.append(start.replace("<svg", f'<svg x="{72 * x:g}" y="{72 * y:g}"') + ">" + rest)
    return "\n".join([*parts, "</svg>"]) + "\n"


def joined_png(picture: Picture, panels: Sequence[DrawnPanel]) -> Image.Image:
    """All panels of a picture as one image on white."""
    size, places = _places(picture)
    image = Image.new("RGB", tuple(round(DPI * side) for side in size), "white")
    for panel, place in zip(panels, places):
        image.paste(panel.png.convert("RGB"), tuple(round(DPI * side) for side in place))
    return image


def write_picture(picture: Picture, panels: Sequence[DrawnPanel], folder: Path) -> list[Path]:
    """Write all panels of a picture together, as PNG and SVG.

    Returns:
        The two paths.
    """
    png, svg = (folder / f"{picture.name}.{suffix}" for suffix in ("png", "svg"))
    joined_png(picture, panels).save(png, dpi=(DPI, DPI))
    svg.write_text(joined_svg(picture, panels), encoding="utf-8")
    return [png, svg]
