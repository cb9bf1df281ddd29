"""A sweep as a picture: the error against the swept value, with 95 % intervals, single seeds and the baseline's band.

Numbers get a numeric axis, names a row each with the best on top; where several keys were swept, each combination of
the others has a colour, until colours run out and every combination gets a row. Filled marks differ from the baseline,
hollow ones not detectably. The colours are those of Okabe & Ito, which the colour-blind tell apart.
"""

import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from tdbench.results.store import label, write_atomically

Row = Mapping[str, Any]

WIDTH, HEIGHT, MAX_HEIGHT, DPI = 8.0, 5.0, 100.0, 150  # inches; 1200 pixels wide
SEED_SHIFT, SERIES_SHIFT = 5.0, 12.0  # points from a mean to its seeds, and to the mean of the next series
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TEXT, GREY, FRAME, GRID = "#333333", "#767676", "#BBBBBB", "#ECECEC"
ERROR = "test error after the last epoch (%)"
STYLE = {
    "font.family": "DejaVu Sans",
    "text.color": TEXT,
    "text.parse_math": False,  # a $ in a name is a $
    "axes.labelcolor": TEXT,
    "axes.edgecolor": FRAME,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tdbench",  # the same table, the same bytes
}


@dataclass(frozen=True)
class Mark:
    """One value of the sweep in the picture; NaN where there is no figure."""

    name: str
    place: Any  # the value on the axis
    series: str  # the values of the other keys
    mean: float
    std: float
    low: float
    high: float
    seeds: list[float]
    is_baseline: bool
    is_filled: bool


def plot_sweep(
    rows: Sequence[Row],
    keys: Sequence[str],
    png: Path,
    svg: Path,
    *,
    subject: str,
    trials: Sequence[Row] = (),
    units: Mapping[str, str] | None = None,
) -> None:
    """Write the picture of a sweep, 1200 pixels wide; the same input gives the same bytes.

    Args:
        rows: One per value, with the columns of `summary.csv`; None or NaN is a figure that is missing.
        keys: The swept keys, which are columns of `rows` and of `trials`.
        png: The file to write.
        svg: The file to write, its text as text.
        subject: What all trials share, for the title: `targetdrop, resnet8 on digits, 20 epochs`.
        trials: One per trial, with the columns of `trials.csv`; each that is done gives a pale dot.
        units: What a key is measured in, for its axis: `{"block_size": "feature-map pixels"}`.

    Raises:
        FolderError: A file cannot be written.
    """
    with style.context(["default", STYLE]):  # whatever the user's own matplotlibrc says
        figure = draw_sweep(rows, keys, subject, trials, units or {})
        pixels, vectors = io.BytesIO(), io.BytesIO()
        FigureCanvasAgg(figure).print_figure(pixels, format="png", dpi=DPI)
        FigureCanvasSVG(figure).print_figure(vectors, format="svg", metadata={"Date": None})
    write_atomically(png, pixels.getvalue())
    write_atomically(svg, vectors.getvalue())


def draw_sweep(
    rows: Sequence[Row], keys: Sequence[str], subject: str, trials: Sequence[Row], units: Mapping[str, str]
) -> Figure:
    """Return the figure, in the style that is set."""
    axis, others = _choose_axis(rows, keys)
    marks = _marks(rows, keys, axis, others, trials)
    described = " · ".join(f"{key} ({units[key]})" if key in units else key for key in axis)
    figure = Figure()
    axes = figure.add_subplot()
    if any(_is_number(mark.place) for mark in marks):
        height = _draw_numbers(axes, marks)
        axes.set(xlabel=described, ylabel=ERROR)
    else:
        height = _draw_names(axes, marks)
        axes.set(xlabel=ERROR, ylabel=described)
    if others:
        height += _draw_legend(axes, list(_by_series(marks)), ", ".join(others))
    if all(math.isnan(mark.mean) for mark in marks):
        axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=GREY)
    title = textwrap.fill(f"{' × '.join(keys)}: {subject}", 74)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, weight="bold")
    figure.supxlabel(textwrap.fill(_caption(rows, marks), 125), x=0.012, ha="left", fontsize=8.5, color=GREY)
    figure.set_size_inches(WIDTH, min(height, MAX_HEIGHT))
    return figure


def _choose_axis(rows: Sequence[Row], keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the keys along the axis and those that give the colours: numbers before names, many values before few."""
    compared = [row for row in rows if row["verdict"] != "baseline"]
    numeric = [key for key in keys if compared and all(_is_number(row[key]) for row in compared)]
    axis = max(numeric or keys, key=lambda key: len({label(row[key]) for row in compared}))
    others = [key for key in keys if key != axis]
    if len({_name(row, others) for row in compared}) > len(COLOURS):
        return list(keys), []
    return [axis], others


def _marks(
    rows: Sequence[Row], keys: Sequence[str], axis: Sequence[str], others: Sequence[str], trials: Sequence[Row]
) -> list[Mark]:
    """Return what the picture shows of each row of `summary.csv`."""
    seeds = defaultdict(list)
    for trial in trials:
        if trial["status"] == "done":
            seeds[_name(trial, keys)].append(float(trial["test_error_pct"]))
    columns = ("test_error_pct_mean", "test_error_pct_std", "ci95_low", "ci95_high")
    marks = []
    for row in rows:
        name, verdict = _name(row, keys), row["verdict"]
        place = row[axis[0]] if len(axis) == 1 else name
        mean, std, low, high = (math.nan if row[column] is None else float(row[column]) for column in columns)
        is_filled = verdict in ("helps", "hurts", "baseline", "no baseline")
        series = _name(row, others)
        marks.append(Mark(name, place, series, mean, std, low, high, seeds[name], verdict == "baseline", is_filled))
    return marks


def _draw_numbers(axes: Axes, marks: Sequence[Mark]) -> float:
    """Draw a line for each series over a numeric axis; return the height of the picture in inches."""
    baseline = _baseline(marks)
    if baseline is not None:
        axes.axhspan(baseline.low, baseline.high, color=GREY, alpha=0.15, lw=0)
        axes.axhline(baseline.mean, color=GREY, lw=1.2, ls=(0, (5, 3)))
        _write_aside(axes, f"baseline\n{baseline.name}\n{baseline.mean:.2f} %", baseline.mean, GREY)
    placed = [mark for mark in marks if _is_number(mark.place)]
    places = sorted({float(mark.place) for mark in placed})
    _set_places(axes, places)
    room = 0.5 * 72 * WIDTH / max(1, len(places))
    _draw_series(axes, placed, lambda mark: float(mark.place), room, across=False)
    axes.set_ylim(_reach(marks))
    return HEIGHT


def _draw_names(axes: Axes, marks: Sequence[Mark]) -> float:
    """Draw a row for each name, the best on top; return the height of the picture in inches."""
    baseline = _baseline(marks)
    if baseline is not None:
        axes.axvspan(baseline.low, baseline.high, color=GREY, alpha=0.15, lw=0)
        axes.axvline(baseline.mean, color=GREY, lw=1.2, ls=(0, (5, 3)))
    ranked = sorted(marks, key=lambda mark: (math.isnan(mark.mean), mark.mean))
    row_of = {name: row for row, name in enumerate(dict.fromkeys(label(mark.place) for mark in ranked))}
    num_series = len(_by_series(marks))
    _draw_series(axes, marks, lambda mark: row_of[label(mark.place)], SERIES_SHIFT * num_series, across=True)
    if len(row_of) == len(marks):
        for mark in ranked:
            figures = (
                "no result" if math.isnan(mark.mean) else f"{mark.mean:.2f} ± {mark.std:.2f}".removesuffix(" ± nan")
            )
            _write_aside(axes, figures, row_of[label(mark.place)], TEXT)
    names = [textwrap.fill(name.replace(",", ", "), 30) for name in row_of]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(_reach(marks))
    num_lines = max((name.count("\n") + 1 for name in names), default=1)
    return 1.9 + len(names) * max(0.2 * num_lines + 0.15, SERIES_SHIFT / 72 * (num_series + 1))


def _draw_series(
    axes: Axes, marks: Sequence[Mark], position: Callable[[Mark], float], room: float, *, across: bool
) -> None:
    """Draw means, intervals and seeds, the series beside each other within `room` points.

    With `across` the error runs from left to right, else upwards, and a line joins the means of a series.
    """
    by_series = _by_series(marks)
    step = min(SERIES_SHIFT, room / max(1, len(by_series)))
    shifts = {series: step * (i - (len(by_series) - 1) / 2) for i, series in enumerate(by_series)}
    colours = dict(zip(by_series, COLOURS, strict=False))

    def plot(positions: list[float], errors: list[float], shift: float, **look: Any) -> None:
        x, y = (errors, positions) if across else (positions, errors)
        by = ScaledTranslation(0 if across else shift / 72, -shift / 72 if across else 0, inches)
        axes.plot(x, y, transform=axes.transData + by, **look)

    inches = axes.figure.dpi_scale_trans
    for series, its_marks in by_series.items() if not across else ():
        rising = sorted((mark for mark in its_marks if not math.isnan(mark.mean)), key=position)
        means = [mark.mean for mark in rising]
        plot([position(mark) for mark in rising], means, shifts[series], lw=1.1, color=colours[series])
    for mark in marks:
        at, shift = position(mark), shifts.get(mark.series, 0)
        colour = GREY if mark.is_baseline else colours[mark.series]
        plot([at, at], [mark.low, mark.high], shift, lw=2.4, color=colour, alpha=0.85)
        dots = {"ls": "", "marker": "o", "ms": 4.5, "mew": 0, "color": colour, "alpha": 0.35}
        plot([at] * len(mark.seeds), mark.seeds, shift + SEED_SHIFT, **dots)
        face = {"marker": "D" if mark.is_baseline else "o", "mec": colour, "mfc": colour if mark.is_filled else "white"}
        plot([at], [mark.mean], shift, ms=7.5, mew=1.8, **face)


def _write_aside(axes: Axes, text: str, position: float, colour: str) -> None:
    """Write at the right of the axes, at a position of the vertical one."""
    edge = axes.get_yaxis_transform()
    axes.annotate(text, (1, position), (7, 0), edge, "offset points", color=colour, fontsize=9, va="center")


def _draw_legend(axes: Axes, series: Sequence[str], title: str) -> float:
    """Name the series above the axes; return the inches that it takes."""
    handles = [
        Line2D([], [], color=colour, marker="o", ms=6, label=name)
        for name, colour in zip(series, COLOURS, strict=False)
    ]
    num_columns = max(1, int(6.5 / (0.65 + 0.085 * max(map(len, series), default=0))))  # by the width of a letter
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, "alignment": "left"}
    axes.legend(handles=handles, title=title, ncols=num_columns, **place)
    return 0.25 * (1 + math.ceil(len(series) / num_columns))


def _set_places(axes: Axes, places: Sequence[float]) -> None:
    """Scale a numeric axis, and put a tick at each swept value that has room for its label."""
    if not places:
        return
    geometric = _is_geometric(places)
    axes.set_xscale("log" if geometric else "linear")
    scale = math.log if geometric else float
    low, high = scale(places[0]), scale(places[-1])
    pad = 0.07 * (high - low) or 1.0
    axes.set_xlim(*(math.exp(x) if geometric else x for x in (low - pad, high + pad)))
    ticks = [places[0]]
    for place in places:
        if scale(place) - scale(ticks[-1]) > 0.05 * (high - low):
            ticks.append(place)
    axes.set_xticks(ticks, [label(tick) for tick in ticks])
    axes.minorticks_off()


def _is_geometric(places: Sequence[float]) -> bool:
    """Return whether values rise by about the same factor each, as 0.01, 0.03, 0.1 do, over a decade or nearly."""
    if len(places) < 3 or places[0] <= 0 or places[-1] < 8 * places[0]:
        return False
    factors = [after / before for before, after in pairwise(places)]
    return max(factors) <= 1.3 * min(factors)


def _reach(marks: Sequence[Mark]) -> tuple[float, float]:
    """Return the part of the error axis to show: all means and seeds, and intervals unless they would dwarf them."""
    points = [x for mark in marks for x in (mark.mean, *mark.seeds) if not math.isnan(x)]
    ends = [x for mark in marks for x in (mark.low, mark.high) if not math.isnan(x)]
    if not points:
        return 0.0, 100.0
    spread = max(points) - min(points) or 0.5
    low = max(min([*points, *ends]), min(points) - spread, 0)
    high = min(max([*points, *ends]), max(points) + spread)
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad


def _caption(rows: Sequence[Row], marks: Sequence[Mark]) -> str:
    """Return n, and what the marks mean."""
    fewest, most = min((row["n"] for row in rows), default=0), max((row["n"] for row in rows), default=0)
    n = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    dots = ", the pale dots" if any(mark.seeds for mark in marks) else ""
    parts = [f"{n} seed{'s' * (most != 1)} per value{dots}", "Bars: 95 % t intervals of the means"]
    if _baseline(marks) is not None:
        parts.append(
            "Filled: differs from the baseline (paired t-test, Holm-corrected p ≤ 0.05); hollow: not detectably"
        )
    return ". ".join(parts) + "."


def _baseline(marks: Sequence[Mark]) -> Mark | None:
    return next((mark for mark in marks if mark.is_baseline and not math.isnan(mark.mean)), None)


def _by_series(marks: Sequence[Mark]) -> dict[str, list[Mark]]:
    """Return the marks of each series, in the order of the sweep; a baseline outside the grid is in none."""
    in_grid = {mark.series for mark in marks if not mark.is_baseline}
    by_series: dict[str, list[Mark]] = defaultdict(list)
    for mark in marks:
        if mark.series in in_grid:
            by_series[mark.series].append(mark)
    return by_series


def _name(row: Row, keys: Sequence[str]) -> str:
    """Return the values of these keys as one name; a baseline that is `none` for all of them is `none`."""
    labels = [label(row[key]) for key in keys]
    return labels[0] if len(set(labels)) == 1 else " · ".join(labels)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
