"""How the pictures of a report are drawn: as SVG that takes its colours from the page it stands on.

The colours of values are those of Okabe & Ito, which the colour-blind tell apart; text and lines are `currentColor`,
and what is hollow is the page's ground.
"""

import hashlib
import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tdbench.store.pictures import STYLE

INK, PAPER = "#010203", "#040506"  # what becomes the page's own colours, of text and of ground
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888", "#999933")
MARKERS = ("o", "s", "D", "^", "v")
WIDTH = 7.2  # inches
LOOK = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "font.size": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """A drawing with its words.

    Attributes:
        svg: The drawing.
        alt: What it shows, for those who do not see it.
        caption: What its marks mean, with n.
    """

    svg: str
    alt: str
    caption: str


@contextmanager
def drawing(height: float, columns: int = 1) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Give a figure of so many inches with axes side by side, in the look of the report."""
    with style.context(["default", {**STYLE, **LOOK}]):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.subplots(1, columns, squeeze=False)[0]
        yield figure, list(axes)


def finished(figure: Figure, alt: str) -> str:
    """Return a figure as SVG to stand in a page, without a size of its own, with words for those who do not see it."""
    text = io.StringIO()
    with style.context(["default", {**STYLE, **LOOK}]):
        FigureCanvasSVG(figure).print_figure(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(
        re.findall(r"#([\w.-]+)", svg)
    )  # markers and clips are referred to by their ids, each of this drawing alone
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"#(?=[mp][0-9a-f]{8,})", f"#{own}-", svg)
    head = f'<svg role="img" aria-label="{escape(alt, quote=True)}" '
    return head + re.sub(r' (width|height)="[\d.]+pt"', "", svg[len("<svg") :], count=2).lstrip()


def name_series(axes: Axes, names: Sequence[str]) -> None:
    """Name the looks of `look_of`, in their order, above the axes, where they hide nothing."""
    handles = [Line2D([], [], lw=2.5, label=clipped(name), **look_of(number)) for number, name in enumerate(names)]
    columns = max(1, int(90 / (8 + max(map(len, names), default=0))))  # by the width of a letter
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns, "frameon": False}
    axes.legend(handles=handles, fontsize=8.5, labelcolor=INK, **place)


def scale_by_logarithm(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with ticks as people count."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def is_wide(figures: Collection[float]) -> bool:
    """Return whether figures are seen better by their logarithm: above 0, the largest ten times the smallest."""
    return min(figures) > 0 and max(figures) >= 10 * min(figures)


def look_of(number: int) -> dict[str, Any]:
    """Return the colour and the marker of one of many values; two that share the one differ in the other."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def clipped(text: str, most: int = 34) -> str:
    """Return a name that fits beside a picture."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
