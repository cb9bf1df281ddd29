"""Candidates of a search as lines over parallel axes, one for each knob and the last for what they came to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdbench.report.drawing import INK, PAPER, Picture, clipped, drawing, finished, is_wide, look_of, name_series
from tdbench.report.rows import number

FEW = 6  # different values of a knob, each of which then has a tick


@dataclass(frozen=True)
class Axis:
    """A knob: where each of its values stands, from 0 to 1, and its ticks."""

    name: str
    places: Mapping[str, float]
    ticks: Mapping[str, float]


def axis_of(name: str, values: Sequence[str]) -> Axis:
    """Return the axis of a knob's values, as the table writes them.

    Numbers stand where they belong, by their logarithm where they are `is_wide`; names stand side by side.
    """
    figures = {value: number(value) for value in values}
    if any(map(math.isnan, figures.values())):
        names = sorted(figures)
        places = {value: place / max(1, len(names) - 1) for place, value in enumerate(names)}
        return Axis(name, places, {clipped(value, 14): place for value, place in places.items()})
    low, high = min(figures.values()), max(figures.values())
    is_log = is_wide(figures.values())
    begin, end = (math.log(low), math.log(high)) if is_log else (low, high)
    span = (end - begin) or 1.0

    def place_of(figure: float) -> float:
        return ((math.log(figure) if is_log else figure) - begin) / span

    ticked = sorted(set(figures.values()))
    if len(ticked) > FEW:
        between = [begin + span * part / 4 for part in range(5)]
        ticked = [math.exp(one) for one in between] if is_log else between
    places = {value: place_of(figure) for value, figure in figures.items()}
    return Axis(name, places, {f"{one:.3g}".replace("-", "−"): place_of(one) for one in ticked})


def parallel(
    knobs: Sequence[str], candidates: Mapping[str, Sequence[str]], named: Sequence[str], alt: str, caption: str
) -> Picture:
    """Draw candidates as lines over one axis for each knob.

    Args:
        knobs: The names of the axes.
        candidates: Name to values, as the table writes them, one for each axis.
        named: Those in colour with their names; the others are pale.
        alt: What the picture shows, in words.
        caption: What its lines mean, with n.
    """
    axes_of = [axis_of(name, [row[i] for row in candidates.values()]) for i, name in enumerate(knobs)]
    with drawing(3.8) as (figure, (axes,)):
        for x, axis in enumerate(axes_of):
            axes.axvline(x, color=INK, lw=0.8, alpha=0.6)
            for text, place in axis.ticks.items():
                look: dict[str, Any] = {"fontsize": 8, "ha": "right", "va": "center", "zorder": 3}
                ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
                axes.annotate(text, (x, place), (-5, 0), textcoords="offset points", bbox=ground, **look)
        for name in sorted(candidates, key=lambda one: one in named):
            heights = [axis.places[value] for axis, value in zip(axes_of, candidates[name], strict=True)]
            look = {"color": INK, "lw": 0.8, "alpha": 0.3}
            if name in named:
                look = {**look_of(named.index(name)), "lw": 2.0, "ms": 5}
            axes.plot(range(len(heights)), heights, **look)
        axes.set_xticks(range(len(knobs)), [clipped(name, 22) for name in knobs])
        axes.set_xlim(-0.3, len(knobs) - 0.85)
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params("x", length=0)
        name_series(axes, named)
        return Picture(finished(figure, alt), alt, caption)
