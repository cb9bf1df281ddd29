"""A sweep as a picture: the error against the swept value, with 95 % intervals, single seeds and the baseline's band.

Numbers get a numeric axis, names a row each with the best on top. Filled marks differ from the baseline, hollow ones
not detectably. The colours are those of Okabe & Ito, which the colour-blind tell apart.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from tdbench.store import pictures
from tdbench.store.files import as_text, write_atomically
from tdbench.store.rows import TEST_ERROR, TEST_ERROR_BN, Decision, SummaryRow, TrialRow
from tdbench.sweep.plots.arrangement import Arrangement, Mark, arrange, differences, is_geometric

WIDTH, HEIGHT, DPI = 8.0, 5.0, 150  # inches; 1200 pixels wide
# Points from a mean to its seeds on one side and the cross on the other, and to the mean of the next series.
SEED_SHIFT, SERIES_SHIFT = 5.0, 12.0
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TEXT, GREY, FRAME, GRID = "#333333", "#767676", "#BBBBBB", "#ECECEC"
FILLED = (Decision.HELPS, Decision.HURTS, Decision.BASELINE, Decision.NO_BASELINE)
ERRORS = {
    TEST_ERROR: "test error after the last epoch (%)",
    TEST_ERROR_BN: "test error, BatchNorm's statistics re-estimated (%)",
}
BESIDE = {
    TEST_ERROR: "with BatchNorm's statistics re-estimated without the regularizer",
    TEST_ERROR_BN: "with BatchNorm's statistics as training left them",
}
DIFFERENCE = "difference from the baseline"
STYLE = {
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": FRAME,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
}


def plot_sweep(
    rows: Sequence[SummaryRow],
    keys: Sequence[str],
    png: Path,
    svg: Path,
    *,
    subject: str,
    pdf: Path | None = None,
    trials: Sequence[TrialRow] = (),
    units: Mapping[str, str] | None = None,
) -> None:
    """Write the picture of a sweep, 1200 pixels wide; the same input gives the same bytes.

    Args:
        rows: One per value.
        keys: The swept keys.
        png: The file to write.
        svg: The file to write, its text as text.
        subject: What all trials share, for the title: `targetdrop, resnet8 on digits, 20 epochs`.
        pdf: The file to write, its text drawn; None: none is asked for.
        trials: One per trial; each that is done gives a pale dot.
        units: What a key is measured in, for its axis: `{"block_size": "feature-map pixels"}`.

    Raises:
        FolderError: A file cannot be written.
    """
    sweep = arrange(rows, keys, trials, len(COLOURS))
    with style.context(["default", pictures.STYLE, STYLE]):  # whatever the user's own matplotlibrc says
        title, about = f"{' × '.join(keys)}: {subject}", caption(sweep, rows)
        figure = draw_sweep(sweep, differences(sweep, rows, keys, trials), title, about, units or {})
        pixels, vectors = pictures.render(figure, DPI)
        pages = None if pdf is None else pictures.as_pdf(figure)
    if pdf is not None and pages is not None:
        write_atomically(pdf, pages)
    write_atomically(png, pixels)
    write_atomically(svg, vectors)


def draw_sweep(
    sweep: Arrangement, apart: Arrangement | None, title: str, caption: str, units: Mapping[str, str]
) -> Figure:
    """Return the figure, in the style that is set: the errors, and where there are some the paired differences."""
    figure = Figure()
    described = " · ".join(f"{key} ({units[key]})" if key in units else key for key in sweep.axis)
    if sweep.is_numeric:
        axes, *others = figure.subplots(1 if apart is None else 2, sharex=True, squeeze=False)[:, 0]
        height = _draw_numbers(axes, sweep)
        axes.set(ylabel=ERRORS.get(sweep.metric, sweep.metric), ylim=sweep.error_limits())
        (others or [axes])[-1].set(xlabel=described)
    else:
        axes, *others = figure.subplots(1, 1 if apart is None else 2, sharey=True, squeeze=False)[0]
        height = _draw_names(axes, sweep)
        told = textwrap.fill(ERRORS.get(sweep.metric, sweep.metric), 60 if apart is None else 26)
        axes.set(xlabel=told, ylabel=described, xlim=sweep.error_limits())
        write_figures((others or [axes])[-1], sweep, apart)
    if apart is not None:
        height += _draw_differences(others[0], apart)
    if sweep.others:
        height += _draw_legend(axes, list(sweep.series), " · ".join(sweep.others))
    if not any(mark.has_result for mark in sweep.marks):
        axes.text(0.5, 0.5, "no finished trial", transform=axes.transAxes, ha="center", color=GREY)
    figure.suptitle(textwrap.fill(title, 74), x=0.012, ha="left", fontsize=12, weight="bold")
    figure.supxlabel(textwrap.fill(caption, 125), x=0.012, ha="left", fontsize=8.5, color=GREY)
    figure.set_size_inches(WIDTH, height)
    return figure


def caption(sweep: Arrangement, rows: Sequence[SummaryRow]) -> str:
    """Return n, and what the marks mean."""
    counts = [row.n for row in rows]
    fewest, most = min(counts, default=0), max(counts, default=0)
    n = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    dots = ", the pale dots" if any(mark.seeds for mark in sweep.marks) else ""
    text = f"{n} seed{'s' * (most != 1)} per value{dots}. Bars: 95 % t intervals of the means."
    if sweep.baseline is not None:
        design = "fixed" if not rows else rows[0].design
        told = (
            "paired t-test" if design == "fixed" else f"sequential paired t-tests, {design.replace('..', ' to ')} seeds"
        )
        text += f" Filled: differs from the baseline ({told}, Holm-corrected p ≤ 0.05); hollow: not decided."
        text += " Of the differences the bars are the intervals of the table."
    if any(not math.isnan(mark.beside) for mark in sweep.marks):
        text += f" × and dotted line: the means {BESIDE[sweep.metric]}."
    if sweep.num_left_out:
        text += f" The {sweep.num_left_out:,} values that rank lower are left out."
    return text


def _draw_numbers(axes: Axes, sweep: Arrangement) -> float:
    """Draw a line for each series over a numeric axis; return the height of the picture in inches."""
    if (baseline := sweep.baseline) is not None:
        axes.axhspan(baseline.low, baseline.high, color=GREY, alpha=0.15, lw=0)
        axes.axhline(baseline.mean, color=GREY, lw=1.2, ls=(0, (5, 3)))
        axes.axhline(baseline.beside, color=GREY, lw=1.2, ls=(0, (1, 2)))
        name = textwrap.fill(baseline.name, 16)
        _write_aside(axes, f"baseline\n{name}\n{written(baseline.mean, sweep)}", baseline.mean, GREY)
    places = sorted({sweep.position(mark) for mark in sweep.placed})
    _scale_numbers(axes, places)
    _draw_marks(axes, sweep, room=0.5 * 72 * WIDTH / len(places))
    return HEIGHT


def _draw_differences(axes: Axes, apart: Arrangement) -> float:
    """Draw the paired differences from the baseline, which is at 0; return the inches that they add to the height."""
    if apart.is_numeric:
        axes.axhline(0, color=GREY, lw=1.2, ls=(0, (5, 3)))
        places = sorted({apart.position(mark) for mark in apart.placed})
        _draw_marks(axes, apart, room=0.5 * 72 * WIDTH / len(places))
        axes.set(ylabel=difference_of(apart), ylim=apart.error_limits())
        return 0.7 * HEIGHT
    axes.axvline(0, color=GREY, lw=1.2, ls=(0, (5, 3)))
    _draw_marks(axes, apart, room=math.inf)
    axes.grid(visible=False, axis="y")
    axes.tick_params("y", length=0)
    axes.set(xlabel=textwrap.fill(difference_of(apart), 26), xlim=apart.error_limits())
    return 0.0


def write_figures(axes: Axes, sweep: Arrangement, apart: Arrangement | None) -> None:
    """Write each row's figures at the right: its difference where there are some, else its mean and deviation."""
    if len(sweep.rows) != len(sweep.marks):
        return
    form = form_of(sweep)
    differences = {} if apart is None else {mark.name: f"{mark.mean:+{form}}".replace("-", "−") for mark in apart.marks}
    for mark in sweep.marks:
        figures = f"{mark.mean:{form}} ± {mark.std:{form}}".removesuffix(" ± nan") if mark.has_result else "no result"
        if apart is not None:
            figures = "0, baseline" if mark.is_baseline else differences.get(mark.name, "none")
        _write_aside(axes, figures, sweep.rows[as_text(mark.place)], TEXT)


def difference_of(apart: Arrangement) -> str:
    """Return what an axis of differences shows."""
    return f"{DIFFERENCE} (points)" if "_pct" in apart.metric else f"{DIFFERENCE}, {apart.metric}"


def form_of(sweep: Arrangement) -> str:
    """Return the form of a figure: an error has two decimals."""
    return ".2f" if "_pct" in sweep.metric else ".3g"


def written(figure: float, sweep: Arrangement) -> str:
    """Return a figure with its unit."""
    return f"{figure:{form_of(sweep)}}{' %' * ('_pct' in sweep.metric)}"


def _draw_names(axes: Axes, sweep: Arrangement) -> float:
    """Draw a row for each name, the best on top; return the height of the picture in inches."""
    if (baseline := sweep.baseline) is not None:
        axes.axvspan(baseline.low, baseline.high, color=GREY, alpha=0.15, lw=0)
        axes.axvline(baseline.mean, color=GREY, lw=1.2, ls=(0, (5, 3)))
        axes.axvline(baseline.beside, color=GREY, lw=1.2, ls=(0, (1, 2)))
    _draw_marks(axes, sweep, room=math.inf)
    names = [textwrap.fill(name.replace(",", ", "), 30) for name in sweep.rows]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    num_lines = max((name.count("\n") + 1 for name in names), default=1)
    row_height = max(0.2 * num_lines + 0.15, SERIES_SHIFT / 72 * (len(sweep.series) + 1))
    return max(2.8, 1.9 + len(names) * row_height)


def _draw_marks(axes: Axes, sweep: Arrangement, room: float) -> None:
    """Draw means, intervals and seeds, the series beside each other within `room` points; over numbers, lines too."""
    step = min(SERIES_SHIFT, room / max(1, len(sweep.series)))
    shifts = {series: step * (i - (len(sweep.series) - 1) / 2) for i, series in enumerate(sweep.series)}
    inches = axes.figure.dpi_scale_trans

    def plot(positions: Sequence[float], errors: Sequence[float], shift: float, **look: Any) -> None:
        x, y = (positions, errors) if sweep.is_numeric else (errors, positions)
        right, up = (shift / 72, 0.0) if sweep.is_numeric else (0.0, -shift / 72)
        axes.plot(x, y, transform=axes.transData + ScaledTranslation(right, up, inches), **look)

    def plot_marks(marks: Sequence[Mark], shift: float, colour: str, marker: str) -> None:
        at = [sweep.position(mark) for mark in marks]
        bars = [x for mark in marks for x in (mark.low, mark.high, math.nan)]  # NaN lifts the pen
        plot([x for x in at for _ in range(3)], bars, shift, lw=2.4, color=colour, alpha=0.85)
        seeds = [(x, error) for x, mark in zip(at, marks, strict=True) for error in mark.seeds]
        dots = {"ls": "", "marker": "o", "ms": 4.5, "mew": 0, "color": colour, "alpha": 0.35}
        plot([x for x, _ in seeds], [error for _, error in seeds], shift + SEED_SHIFT, **dots)
        plot(
            at,
            [mark.beside for mark in marks],
            shift - SEED_SHIFT,
            ls="",
            marker="x",
            ms=6,
            mew=1.4,
            mec=colour,
            alpha=0.85,
        )
        for face, filled in ((colour, True), ("white", False)):
            means = [mark.mean if (mark.decision in FILLED) == filled else math.nan for mark in marks]
            plot(at, means, shift, ls="", marker=marker, ms=7.5, mew=1.8, mec=colour, mfc=face)

    for (series, marks), colour in zip(sweep.series.items(), COLOURS, strict=False):
        if sweep.is_numeric:
            rising = sorted((mark for mark in marks if mark.has_result), key=sweep.position)
            means = [mark.mean for mark in rising]
            plot([sweep.position(mark) for mark in rising], means, shifts[series], lw=1.1, color=colour)
        plot_marks([mark for mark in marks if not mark.is_baseline], shifts[series], colour, "o")
    if sweep.baseline in sweep.placed:
        plot_marks([sweep.baseline], shifts.get(sweep.baseline.series, 0.0), GREY, "D")


def _write_aside(axes: Axes, text: str, position: float, colour: str) -> None:
    """Write at the right of the axes, at a position of the vertical one."""
    edge = axes.get_yaxis_transform()
    axes.annotate(text, (1, position), (7, 0), edge, "offset points", color=colour, fontsize=9, va="center")


def _draw_legend(axes: Axes, series: Sequence[str], title: str) -> float:
    """Name the series above the axes; return the inches that it takes."""
    names = [textwrap.fill(name.replace(",", ", "), 70) for name in series]
    handles = [
        Line2D([], [], color=colour, marker="o", ms=6, label=name) for name, colour in zip(names, COLOURS, strict=False)
    ]
    num_columns = max(1, int(6.5 / (0.65 + 0.085 * max(map(len, names), default=0))))  # by the width of a letter
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, "alignment": "left"}
    axes.legend(handles=handles, title=title, ncols=num_columns, **place)
    return 0.25 * (1 + math.ceil(sum(name.count("\n") + 1 for name in names) / num_columns))


def _scale_numbers(axes: Axes, places: Sequence[float]) -> None:
    """Scale a numeric axis, and put a tick at each swept value that has room for its label."""
    geometric = is_geometric(places)
    axes.set_xscale("log" if geometric else "linear")
    scale = math.log if geometric else float
    low, high = scale(places[0]), scale(places[-1])
    pad = 0.07 * (high - low) or 1.0
    axes.set_xlim(*(math.exp(x) if geometric else x for x in (low - pad, high + pad)))
    ticks = [places[0]]
    for place in places:
        if scale(place) - scale(ticks[-1]) > 0.06 * (high - low):
            ticks.append(place)
    axes.set_xticks(ticks, [as_text(tick) for tick in ticks])
    axes.minorticks_off()
