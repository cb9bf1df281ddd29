"""The pictures of a report: words beside them, the page's own colours, names that overlap nowhere."""

import itertools
import math
import shutil

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from tdbench.report.charts import Bar, forest
from tdbench.report.drawing import COLOURS, drawing
from tdbench.report.of_runs import per_class
from tdbench.report.reading import read_sources
from tdbench.report.scatter import name_points, scatter
from tdbench.store.folders import Predictions, RunFolder
from tests.report.conftest import FASHION, copied


def test_a_picture_has_words_for_those_who_do_not_see_it_and_takes_the_pages_colours():
    picture = forest([Bar('a "b"', -1.0, (-2.0, 0.0), (-3.0, 1.0), [-1.5, -0.5], True)], "points", "n = 2 seeds")
    assert 'role="img" aria-label="Paired differences' in picture.svg
    assert "&quot;b&quot; -1.00" in picture.svg
    assert "currentColor" in picture.svg
    assert "#010203" not in picture.svg
    hollow = forest([Bar("a", -1.0, (-2.0, 0.0), (math.nan,) * 2, [], False)], "points", "n = 2 seeds")
    assert "var(--paper)" in hollow.svg, "also on a dark page"
    assert "new images" not in hollow.caption
    assert "new images" in picture.caption


def test_a_value_looks_the_same_in_each_picture_of_a_sweep():
    points = {"none": (0.0, 5.0, 1.0), "dropout": (1.0, 4.0, 1.0)}
    both, one = (scatter(of, "x", "y", "", "", values=[*points]) for of in (points, {"dropout": points["dropout"]}))
    assert COLOURS[0].lower() in both.svg.lower()
    assert COLOURS[1].lower() in one.svg.lower()
    assert COLOURS[0].lower() not in one.svg.lower()


def test_names_beside_points_overlap_nowhere():
    crowd = {f"value {number}": (1 + number / 1000, 2.0, math.nan) for number in range(8)}
    boxes = []
    with drawing(3.6) as (figure, (axes,)):
        for x, y, _ in crowd.values():
            axes.plot(x, y, "o")
        axes.set_xlim(0, 100)
        name_points(figure, axes, {name: (x, y) for name, (x, y, _) in crowd.items()}, [(1.0, 2.0)])
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
    assert len(boxes) == 8
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]


def predictions_of(path, classes, wrong):
    """Write the outcome of ten images of each of two classes, of which so many of the first are missed."""
    path.mkdir(parents=True)
    label = np.repeat([0, 1], 10)
    predicted = label.copy()
    predicted[:wrong] = 1
    RunFolder(path).write_predictions(Predictions(label, predicted, np.ones(20), classes))


@pytest.mark.parametrize(("classes", "named"), [(("cat", "<dog>"), ["cat", "&lt;dog&gt;"]), ((), ["0", "1"])])
def test_classes_have_their_names_where_a_run_kept_them(classes, named, tmp_path):
    sweep = read_sources([copied(FASHION, tmp_path)]).sweeps[0]
    for trial in sweep.done:
        predictions_of(sweep.path / "trials" / trial["trial"], classes, 3 if trial["drop_ratio"] == "0.5" else 1)
    (picture,) = per_class(sweep).pictures
    assert all(f">{name}</text>" in picture.svg for name in named)
    assert "from -20.00 to 20.00" in picture.alt, "three of ten images were missed in place of one"
    odd = sweep.path / "trials" / sweep.done[0]["trial"]
    shutil.rmtree(odd)
    predictions_of(odd, ("other", "images"), 1)
    assert per_class(sweep) is None, "the classes of different test sets share no columns"
