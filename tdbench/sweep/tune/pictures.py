"""The pictures of a search: how it went, and which knobs mattered."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib import style
from matplotlib.figure import Figure

from tdbench.store import pictures
from tdbench.store.files import write_if_new
from tdbench.sweep.plots.drawing import COLOURS, DPI, GREY, STYLE
from tdbench.sweep.tune.search import Search

WIDTH, HEIGHT = 8.0, 4.0  # inches


def draw_history(search: Search) -> None:
    """Draw each candidate's difference to the baseline in the order of the search, and the best so far."""
    with style.context(["default", {**pictures.STYLE, **STYLE}]):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.subplots()
        axes.axhline(0, color=GREY, linewidth=1, linestyle="--", label="baseline")
        for colour, subject in zip(COLOURS, search.plan.subjects, strict=False):
            own = [one for one in search.candidates if one.subject is subject]
            values = [value for one in own if (value := search.value_of(one)) is not None]
            places = range(1, len(values) + 1)
            axes.plot(places, values, "o", color=colour, markersize=4, label=f"{subject.method}: a candidate")
            axes.step(
                places, list(accumulate(values, min)), where="post", color=colour, label=f"{subject.method}: the best"
            )
        axes.set_xlabel("candidate, in the order of the search; the first is the default")
        axes.set_ylabel("difference on held-out images\n(points, less is better)")
        axes.set_title(
            f"{search.plan.asked.search_seeds} runs each; figures that choose, and claim nothing", fontsize=10
        )
        axes.legend(frameon=False, fontsize=8)
        write(search, "history", figure)


def draw_importance(search: Search, rows: Sequence[Mapping[str, str]]) -> None:
    """Draw the importance of each knob as a bar."""
    with style.context(["default", {**pictures.STYLE, **STYLE}]):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.4 * len(rows)))
        axes = figure.subplots()
        names = [f"{row['param']} ({row['regularizer']})" for row in rows]
        shares = [float(row["importance"]) for row in rows]
        axes.barh(names, shares, color=COLOURS[0], height=0.6)
        for place, share in enumerate(shares):
            axes.annotate(f"{share:.2f}", (share, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.08)
        axes.set_xlabel("share of the variation between candidates (fANOVA)")
        write(search, "importance", figure)


def write(search: Search, name: str, figure: Figure) -> None:
    """Write a picture as PNG and SVG."""
    for ending, content in zip(("png", "svg"), pictures.render(figure, DPI), strict=True):
        write_if_new(search.folder / f"{name}.{ending}", content)
