"""The pictures of a report, as SVG that takes its colours from the page it stands on.

The colours of values are those of Okabe & Ito, which the colour-blind tell apart; text and lines are `currentColor`.
"""

import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tdbench.store.pictures import STYLE

INK = "#010203"  # what becomes `currentColor`
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
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


@dataclass(frozen=True)
class Bar:
    """A value of a forest: its mean, its intervals and its seeds; NaN where there is no figure."""

    label: str
    mean: float
    interval: tuple[float, float]
    for_images: tuple[float, float]
    seeds: Sequence[float]
    is_decided: bool


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
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(
        re.findall(r"#([\w.-]+)", svg)
    )  # markers and clips are referred to by their ids, each of this drawing alone
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"#(?=[mp][0-9a-f]{8,})", f"#{own}-", svg)
    head = f'<svg role="img" aria-label="{escape(alt, quote=True)}" '
    return head + re.sub(r' (width|height)="[\d.]+pt"', "", svg[len("<svg") :], count=2).lstrip()


def forest(bars: Sequence[Bar], unit: str, n: str) -> Picture:
    """Draw paired differences from the baseline with both intervals, the seeds as dots."""
    with drawing(0.9 + 0.34 * len(bars)) as (figure, (axes,)):
        axes.axvline(0, color=INK, lw=1, ls=(0, (4, 3)), alpha=0.6)
        for place, bar in enumerate(bars):
            colour = COLOURS[0] if bar.is_decided else INK
            axes.plot(bar.for_images, [place] * 2, color=colour, lw=1, alpha=0.55)
            axes.plot(bar.interval, [place] * 2, color=colour, lw=3.2, alpha=0.75, solid_capstyle="butt")
            axes.plot(bar.seeds, [place + 0.24] * len(bar.seeds), "o", ms=3.2, color=colour, alpha=0.45, mew=0)
            axes.plot(bar.mean, place, "o", ms=7, mfc=colour if bar.is_decided else "white", mec=colour, mew=1.5)
        axes.set_yticks(range(len(bars)), [clipped(bar.label) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlabel(f"difference from the baseline ({unit})")
        shown = [x for bar in bars for x in (*bar.interval, bar.mean, *bar.seeds) if math.isfinite(x)]
        if shown:
            pad = 0.05 * (max(shown) - min(shown)) or 0.5
            axes.set_xlim(min(min(shown), 0) - pad, max(max(shown), 0) + pad)
        told = "; ".join(f"{bar.label} {bar.mean:+.2f}" for bar in bars if math.isfinite(bar.mean))
        alt = f"Paired differences from the baseline in {unit}: {told}"
        caption = f"{n}. Dots: seeds. Thick: interval for new seeds; thin: for new images too. Filled: decided."
        return Picture(finished(figure, alt), alt, caption)


def scatter(
    points: Mapping[str, tuple[float, float, float]], across: str, along: str, alt: str, caption: str
) -> Picture:
    """Draw values as points (x, y, half the interval of y), each with its name."""
    with drawing(3.6) as (figure, (axes,)):
        for (label, (x, y, half)), colour in zip(points.items(), COLOURS * (1 + len(points) // 8), strict=False):
            axes.errorbar(x, y, yerr=half if math.isfinite(half) else None, fmt="o", color=colour, ms=6, lw=1.2)
            axes.annotate(clipped(label, 22), (x, y), (6, 4), textcoords="offset points", fontsize=8.5)
        axes.set_xlabel(across)
        axes.set_ylabel(along)
        axes.margins(0.12)
        return Picture(finished(figure, alt), alt, caption)


def curves(of_values: Mapping[str, Sequence[Sequence[float]]], along: str, alt: str, caption: str) -> Picture:
    """Draw a figure over the epochs: for each value the mean of its runs, and the band that they span."""
    with drawing(3.6) as (figure, (axes,)):
        for (label, runs), colour in zip(of_values.items(), COLOURS * (1 + len(of_values) // 8), strict=False):
            epochs = range(1, min(map(len, runs)) + 1)
            columns = [[run[epoch - 1] for run in runs] for epoch in epochs]
            least, most = [min(one) for one in columns], [max(one) for one in columns]
            axes.fill_between(epochs, least, most, color=colour, alpha=0.15)
            axes.plot(epochs, [sum(one) / len(one) for one in columns], color=colour, lw=1.6, label=clipped(label))
        axes.set_xlabel("epoch")
        axes.set_ylabel(along)
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
        return Picture(finished(figure, alt), alt, caption)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float]], what: str, caption: str
) -> Picture:
    """Draw a table of differences as colours around 0; a cross where there is none."""
    most = max((abs(x) for row in cells for x in row if math.isfinite(x)), default=1.0) or 1.0
    with drawing(1.0 + 0.3 * len(rows)) as (figure, (axes,)):
        image = axes.imshow(cells, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
        for place, row in enumerate(cells):
            for column, x in enumerate(row):
                if not math.isfinite(x):
                    axes.plot(column, place, "x", color=INK, ms=4, mew=0.8)
        axes.set_xticks(range(len(columns)), columns, fontsize=8.5)
        axes.set_yticks(range(len(rows)), [clipped(row) for row in rows])
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.9).set_label(what)
        alt = f"{what}, {len(rows)} values by {len(columns)} columns, from {-most:.2f} to {most:.2f}"
        return Picture(finished(figure, alt), alt, caption)


def clipped(text: str, most: int = 34) -> str:
    """Return a name that fits beside a picture."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
