"""The page: sections of pictures and tables, drawn, put together, and written.

A picture is made of equal panels: each is inlined into the page, all together are a file. Panels
are narrow, so that they stand side by side on a desktop and below each other on a phone without
being scaled: text keeps its size.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from neuroprune_experiments.figures import COLOURS, plt
from neuroprune_experiments.frontier.figures import STYLES
from neuroprune_experiments.records import Rows
from neuroprune_fairseq.files.atomic import working_folder
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
# Numbers in COLOURS; the variants of DSP differ in their markers.
METHOD_COLOURS = {
    **{"neuroprune-target": 2, "voita": 3, "michel": 4, "l1": 5},
    **dict.fromkeys(("neuroprune", "neuroprune-proximal"), 0),
    **dict.fromkeys(("dsp", "dsp-pipelined", "dsp-straight-through"), 1),
}
_RC = {
    **{"font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE, "legend.fontsize": FONT_SIZE},
    **{"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED},
    **{"xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": MUTED, "grid.alpha": 0.25},
    **{"axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.6},
    "image.composite_image": False,
    "svg.hashsalt": "neuroprune-report",  # the same ids every time
    "svg.fonttype": "none",  # text is text
}
Draw = Callable[[Figure], None]


@dataclass(frozen=True)
class Picture:
    """Panels of one size, and the name of the files that hold them all.

    ``panels`` maps what a panel shows, in words, to what draws it on an empty figure.
    """

    name: str
    panels: dict[str, Draw]
    height: float  # of a panel, in inches
    width: float = PANEL_WIDTH
    columns: int = 3  # in the files
    layout: str | None = "constrained"  # None where panels place everything themselves


@dataclass(frozen=True)
class Table:
    """Numbers under a figure: a row of titles, then the rest."""

    title: str
    rows: Rows
    text_columns: int = 1  # at the left; numbers follow


@dataclass(frozen=True)
class Section:
    """One figure of the page."""

    anchor: str  # of its title and what it shows, in page.html
    finding: str = ""  # what these files say
    notes: Sequence[str] = ()  # what to know before one reads it
    pictures: Sequence[Picture] = ()
    folded: Sequence[tuple[str, Picture]] = ()  # with their titles, shown on demand
    tables: Sequence[Table] = ()
    folded_table: Table | None = None


# What the figures share.


def method_style(method: str) -> dict[str, str]:
    """Colour and marker of a method, the same in every picture."""
    if method not in METHOD_COLOURS:
        return {"color": MUTED, "marker": "h"}
    return {"color": COLOURS[METHOD_COLOURS[method]], "marker": STYLES[method][0]}


def points(method: str) -> dict[str, object]:
    """As :func:`method_style`, for points without a line."""
    edge = {"markeredgecolor": INK, "markeredgewidth": 0.6}
    return {**method_style(method), **edge, "markersize": 7, "linestyle": ""}


def shorten(label: str, most: int = 44) -> str:
    """A label of at most so many characters, with an ellipsis in its middle."""
    half = (most - 1) // 2
    return label if len(label) <= most else f"{label[:half]}…{label[-half:]}"


def inch_axes(figure: Figure, title: str) -> Axes:
    """Axes without frame over a whole panel, in inches from its top left corner."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(0, 0.02, title, color=INK, weight="bold", va="top")
    return axes


def new_axes(figure: Figure, grid: str = "both", **settings: object) -> Axes:
    """One pair of axes that fills a panel."""
    axes = figure.subplots()
    axes.set(**settings)
    axes.grid(axis=grid)
    return axes


def legend(figure: Figure, columns: int = 1) -> None:
    """Below the panel."""
    figure.legend(loc="outside lower left", ncols=columns, columnspacing=1.2, handlelength=1.5)


# Drawing.


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
            found.append(DrawnPanel(label, element, Image.open(png).convert("RGB")))
    return found


def inline_svg(panel: DrawnPanel) -> str:
    """A panel as part of a page: it follows the page's colours and has a text for its picture."""
    svg = panel.svg
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(panel.label)}"', 1)


def write_picture(picture: Picture, panels: Sequence[DrawnPanel], folder: Path) -> list[str]:
    """Write all panels of a picture together, on white, as PNG and SVG; returns their names."""
    columns = min(picture.columns, len(panels))
    step = (picture.width + SPACE, picture.height + SPACE)
    size = (columns * step[0] + SPACE, -(-len(panels) // columns) * step[1] + SPACE)
    image = Image.new("RGB", tuple(round(DPI * side) for side in size), "white")
    width, height = (f"{72 * side:g}" for side in size)
    svg = '<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
    svg += f'width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}">\n'
    svg += '<rect width="100%" height="100%" fill="white"/>\n'
    for number, panel in enumerate(panels):
        x, y = SPACE + step[0] * (number % columns), SPACE + step[1] * (number // columns)
        image.paste(panel.png, (round(DPI * x), round(DPI * y)))
        start, _, rest = panel.svg.partition(">")
        start = re.sub(r'((?:width|height)="[\d.]+)pt"', r'\1"', start)
        svg += start.replace("<svg", f'<svg x="{72 * x:g}" y="{72 * y:g}"') + f">{rest}\n"
    names = [f"{picture.name}.png", f"{picture.name}.svg"]
    image.save(folder / names[0], dpi=(DPI, DPI))
    (folder / names[1]).write_text(f"{svg}</svg>\n", encoding="utf-8")
    return names


def write_page(
    out: Path, name: str, sections: Sequence[Section], models: Table | None, **texts: object
) -> list[Path]:
    """Draw and write everything beside ``out``, then move it there.

    Args:
        out: a folder, made where missing.
        name: of the page: one HTML document (well-formed XML, too) that needs no other file.
        sections: in their order.
        models: the table at the top.
        texts: title, subtitle and notes of the page.

    Returns:
        The paths, the page first.
    """
    pictures = [
        picture
        for section in sections
        for picture in [*section.pictures, *(folded for _, folded in section.folded)]
    ]
    svgs, names = {}, [name]
    loader = PackageLoader("neuroprune_experiments", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    place = out.resolve()
    with working_folder(place.parent, place.name) as scratch:
        folder = scratch / place.name
        folder.mkdir()
        for picture in tqdm(pictures, desc="Pictures", disable=None):
            panels = draw_panels(picture)
            svgs[picture.name] = [Markup(inline_svg(panel)) for panel in panels]
            names += write_picture(picture, panels, folder)
        page = environment.get_template("page.html")
        text = page.render(sections=sections, svgs=svgs, models=models, **texts)
        (folder / name).write_text(document(text), encoding="utf-8")
        if not (place.is_dir() and any(place.iterdir())):
            os.replace(folder, place)
        else:  # which may have other files, too; the page when its pictures are there
            for each in reversed(names):
                os.replace(folder / each, place / each)
    return [out / each for each in names]
