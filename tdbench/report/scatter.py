"""Values as points in a plane, with their names where there is room for them."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tdbench.report.drawing import INK, Picture, clipped, drawing, finished, look_of, scale_by_logarithm

MOST_NAMED = 16  # points with a name beside each
# Where a name may stand beside its point, in points: the nearest first.
PLACES = [(right, up) for up in (5, *range(0, 120, 11)) for right in (7, -7, 40, -40) for up in (up, -up)]


def scatter(
    points: Mapping[str, tuple[float, float, float]],
    across: str,
    along: str,
    alt: str,
    caption: str,
    named: Collection[str] | None = None,
    *,
    log: bool = False,
    values: Sequence[str] = (),
) -> Picture:
    """Draw values as points (x, y, half the interval of y).

    Args:
        points: The values by name.
        across, along: What the axes show.
        alt: What the picture shows, in words.
        caption: What its marks mean, with n.
        named: Those that get their name beside them; None: all.
        log: The horizontal axis is logarithmic.
        values: All values, where this is one of several pictures of them; so each has one colour and mark in all.
    """
    order = [one for one in values or points if named is None or one in named]
    with drawing(3.6) as (figure, (axes,)):
        if log:
            scale_by_logarithm(axes)
        looks = {label: look_of(order.index(label)) for label in points if label in order}
        for label, (x, y, half) in points.items():
            bar = half if math.isfinite(half) else None
            look = looks.get(label, {"color": INK, "marker": "o", "alpha": 0.45})
            axes.errorbar(x, y, yerr=bar, ls="", ms=6 if label in looks else 4, zorder=2 + (label in looks), **look)
        axes.set_xlabel(across)
        axes.set_ylabel(along)
        axes.margins(0.12)
        name_points(figure, axes, {label: points[label][:2] for label in looks}, [xy[:2] for xy in points.values()])
        return Picture(finished(figure, alt), alt, caption)


def name_points(
    figure: Figure, axes: Axes, names: Mapping[str, tuple[float, float]], points: Sequence[tuple[float, float]]
) -> None:
    """Write names beside points, each at the nearest place that no other name and no point has taken."""
    figure.draw_without_rendering()  # from here on it is known where everything lies
    renderer, frame = FigureCanvasAgg(figure).get_renderer(), axes.get_window_extent()
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(list(points))]
    for name, (x, y) in names.items():
        best: tuple[int, Any, Any] | None = None
        for right, up in PLACES:
            text = axes.annotate(
                clipped(name, 22),
                (x, y),
                (right, up),
                textcoords="offset points",
                fontsize=8.5,
                ha="left" if right >= 0 else "right",
                va="center",
                arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.5, "alpha": 0.5}
                if max(abs(up), abs(right)) > 10
                else None,
            )
            text.set_in_layout(False)  # so that names do not move what they are placed by
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line that leads to its point
            spoilt = sum(map(box.overlaps, taken)) + 2 * (not frame.x0 <= box.x0 <= box.x1 <= figure.bbox.x1)
            spoilt += 2 * (not frame.y0 <= box.y0 <= box.y1 <= figure.bbox.y1)
            if best is None or spoilt < best[0]:
                if best is not None:
                    best[1].remove()
                best = spoilt, text, box
            else:
                text.remove()
            if not spoilt:
                break
        assert best is not None
        taken.append(best[2])
