"""Charts of a report: forests, figures with intervals, curves, and differences as colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

from tdbench.report.drawing import (
    COLOURS,
    INK,
    PAPER,
    Picture,
    clipped,
    drawing,
    finished,
    look_of,
    name_series,
    scale_by_logarithm,
)


@dataclass(frozen=True)
class Bar:
    """A value of a forest: its mean, its intervals and its seeds; NaN where there is no figure."""

    label: str
    mean: float
    interval: tuple[float, float]
    for_images: tuple[float, float]
    seeds: Sequence[float]
    is_decided: bool


@dataclass(frozen=True)
class Mark:
    """A figure with its interval in a row of a chart; NaN where there is none.

    Attributes:
        row: What it is of.
        series: Which of several figures of the row it is.
        x: The figure.
        interval: Its bounds.
        is_sure: It is drawn filled, else hollow.
        note: Why there is no figure.
    """

    row: str
    series: str
    x: float
    interval: tuple[float, float]
    is_sure: bool = True
    note: str = ""


def forest(bars: Sequence[Bar], unit: str, n: str, of: str = "") -> Picture:
    """Draw paired differences of the values of what was swept, with both intervals, and the seeds as dots."""
    with drawing(0.9 + 0.34 * len(bars)) as (figure, (axes,)):
        axes.axvline(0, color=INK, lw=1, ls=(0, (4, 3)), alpha=0.6)
        for place, bar in enumerate(bars):
            colour = COLOURS[0] if bar.is_decided else INK
            axes.plot(bar.for_images, [place] * 2, color=colour, lw=1, alpha=0.55)
            axes.plot(bar.interval, [place] * 2, color=colour, lw=3.2, alpha=0.75, solid_capstyle="butt")
            axes.plot(bar.seeds, [place + 0.24] * len(bar.seeds), "o", ms=3.2, color=colour, alpha=0.45, mew=0)
            axes.plot(bar.mean, place, "o", ms=7, mfc=colour if bar.is_decided else PAPER, mec=colour, mew=1.5)
        axes.set_yticks(range(len(bars)), [clipped(bar.label) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_ylabel(clipped(of))
        axes.set_xlabel(f"difference from the baseline ({unit})")
        shown = [x for bar in bars for x in (*bar.interval, bar.mean, *bar.seeds) if math.isfinite(x)]
        thin = any(math.isfinite(x) for bar in bars for x in bar.for_images)
        if shown:
            pad = 0.05 * (max(shown) - min(shown)) or 0.5
            axes.set_xlim(min(min(shown), 0) - pad, max(max(shown), 0) + pad)
        told = "; ".join(f"{bar.label} {bar.mean:+.2f}" for bar in bars if math.isfinite(bar.mean))
        alt = f"Paired differences from the baseline in {unit}: {told}"
        bars_mean = "Thick: interval for new seeds; thin: for new images too." if thin else "Bars: 95 % intervals."
        caption = f"{n}. Dots: seeds. {bars_mean} Filled: decided; hollow: not."
        return Picture(finished(figure, alt), alt, caption)


def intervals(
    marks: Sequence[Mark],
    along: str,
    alt: str,
    caption: str,
    *,
    at: float = 0.0,
    log: bool = False,
    band: tuple[float, float] | None = None,
    view: tuple[float, float] | None = None,
) -> Picture:
    """Draw figures with their intervals, a row for each name and a colour for each series.

    Args:
        marks: The figures; one without a figure has its note instead.
        along: What the axis shows.
        alt: What the picture shows, in words.
        caption: What its marks mean, with n.
        at: Where the line of comparison stands.
        log: The axis is logarithmic.
        band: What is shaded, if anything.
        view: What is to be seen, where intervals may go beyond it.
    """
    rows, series = (list(dict.fromkeys(names)) for names in ([m.row for m in marks], [m.series for m in marks]))
    step = 0.7 / max(1, len(series))
    with drawing(0.9 + max(0.34, 0.17 * len(series)) * len(rows) + 0.25 * (len(series) > 1)) as (figure, (axes,)):
        if log:
            scale_by_logarithm(axes)
        if band is not None and all(map(math.isfinite, band)):
            axes.axvspan(*band, color=INK, alpha=0.12, lw=0)
        axes.axvline(at, color=INK, lw=1, ls=(0, (4, 3)), alpha=0.6)
        for mark in marks:
            number = series.index(mark.series)
            place, look = rows.index(mark.row) + step * (number - (len(series) - 1) / 2), look_of(number)
            axes.plot(mark.interval, [place] * 2, color=look["color"], lw=3, alpha=0.75, solid_capstyle="butt")
            face = look["color"] if mark.is_sure else PAPER
            axes.plot(mark.x, place, ms=6.5, mew=1.5, mfc=face, mec=look["color"], **look)
            if not math.isfinite(mark.x):
                edge = axes.get_yaxis_transform()
                axes.plot(0, place, ms=4, transform=edge, clip_on=False, **look)
                axes.annotate(mark.note, (0, place), (7, 0), edge, "offset points", va="center", fontsize=9)
        axes.set_yticks(range(len(rows)), [clipped(row) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(view)
        axes.set_xlabel(along)
        if len(series) > 1:
            name_series(axes, series)
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(along)
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
        return Picture(finished(figure, alt), alt, caption)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float]], across: str, what: str, caption: str
) -> Picture:
    """Draw a table of differences as colours around 0; a cross where there is none.

    Args:
        rows, columns: What the cells are of.
        cells: The differences, a row for each of `rows`.
        across: What the columns are.
        what: What the cells are.
        caption: What is to be known of it.
    """
    most = max((abs(x) for row in cells for x in row if math.isfinite(x)), default=1.0) or 1.0
    are_long = max(map(len, columns)) > 3
    with drawing(1.2 + 0.3 * len(rows) + 0.5 * are_long) as (figure, (axes,)):
        image = axes.imshow(cells, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
        for place, row in enumerate(cells):
            for column, x in enumerate(row):
                if not math.isfinite(x):
                    axes.plot(column, place, "x", color=INK, ms=4, mew=0.8)
        turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if are_long else {}
        axes.set_xticks(range(len(columns)), [clipped(one, 18) for one in columns], fontsize=8.5, **turned)
        axes.set_yticks(range(len(rows)), [clipped(row) for row in rows])
        axes.set_xlabel(across)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.9).set_label(what)
        alt = f"{what}, {len(rows)} values by {len(columns)} columns ({across}), from {-most:.2f} to {most:.2f}"
        return Picture(finished(figure, alt), alt, caption)
