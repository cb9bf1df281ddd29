"""The picture of a sweep: made of any sweep, its text in the SVG, the same bytes for the same table."""

import os
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib import image

from tdbench.errors import FolderError, Note
from tdbench.store.rows import RunResult, TrialRow, TrialState
from tdbench.sweep.plots import arrangement, plot_sweep
from tdbench.sweep.plots.arrangement import arrange, differences, is_geometric
from tests.sweep.one_baseline import summarise

SUBJECT = "targetdrop, resnet8 on digits"


def sweep(values, baseline=None, keys=("block_size",), num_seeds=3):
    """Return rows and trials of a sweep with random errors."""
    generator = np.random.default_rng(0)
    errors = {value: dict(enumerate(generator.uniform(2, 6, num_seeds).tolist())) for value in values}
    rows = [
        replace(row, values=dict(zip(keys, value, strict=True))) for value, row in summarise(errors, baseline).items()
    ]
    done = TrialState.DONE
    trials = [
        TrialRow("", done, seed, dict(zip(keys, value, strict=True)), RunResult(done, "", seed, test_error_pct=error))
        for value, by_seed in errors.items()
        for seed, error in by_seed.items()
    ]
    return rows, trials


def with_bn(rows, trials, metric="test_error_pct"):
    """Return rows and trials whose errors are 1 point lower with BatchNorm's statistics re-estimated."""
    names = {"mean": "test_error_pct_bn_mean", "low": "ci95_bn_low", "high": "ci95_bn_high"}
    of = {"mean": "test_error_pct_mean", "low": "ci95_low", "high": "ci95_high"}
    rows = [replace(row, metric=metric, **{names[k]: getattr(row, of[k]) - 1 for k in names}) for row in rows]
    results = [replace(trial.result, test_error_pct_bn=trial.result.test_error_pct - 1) for trial in trials]
    return rows, [replace(trial, result=result) for trial, result in zip(trials, results, strict=True)]


def draw(folder, rows, trials=(), keys=("block_size",), **options):
    """Draw without a warning; return the pixels and the lines of text in the SVG."""
    png, svg = folder / "plot.png", folder / "plot.svg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_sweep(rows, keys, png, svg, subject=SUBJECT, trials=trials, **options)
    texts = ["".join(element.itertext()) for element in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text")]
    return image.imread(png), texts


NUMBERS = [("none",), (1,), (3,), (5,)]
NAMES = [("none",), ("cutout",), ("dropblock",), ("targetdrop",)]


def test_a_sweep_over_numbers_has_its_axes_named_and_a_tick_at_each_value(tmp_path):
    rows, trials = sweep(NUMBERS, ("none",))
    pixels, texts = draw(tmp_path, rows, trials, units={"block_size": "pixels"})
    assert {"block_size (pixels)", "test error after the last epoch (%)", "1", "3", "5", "baseline", "none"} <= {*texts}
    assert f"block_size: {SUBJECT}" in texts
    assert any(text.startswith("n = 3 seeds per value, the pale dots.") for text in texts)
    assert "difference from the baseline (points)" in texts
    assert pixels.shape == (1275, 1200, 4)
    assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5  # neither blank nor black


def test_a_sweep_over_names_has_a_row_each_the_best_on_top(tmp_path):
    rows, trials = sweep(NAMES, ("none",), ("regularizer",))
    pixels, texts = draw(tmp_path, rows, trials, ["regularizer"])
    ranked = sorted(rows, key=lambda row: row.test_error_pct_mean)
    assert [text for text in texts if (text,) in NAMES] == [row.values["regularizer"] for row in ranked]
    told = [f"{row.delta_vs_baseline:+.2f}".replace("-", "−") for row in ranked if row.delta_vs_baseline is not None]
    assert {*told} <= {*texts}
    assert "0, baseline" in texts
    _, texts = draw(tmp_path, *sweep(NAMES, None, ("regularizer",)), ["regularizer"])  # nothing is compared
    assert f"{ranked[0].test_error_pct_mean:.2f} ± {ranked[0].test_error_pct_std:.2f}" in texts
    assert pixels.shape[1] == 1200


def test_each_seed_is_a_dot(tmp_path):
    rows, trials = sweep(NUMBERS, ("none",))
    without, _ = draw(tmp_path, rows)
    with_seeds, _ = draw(tmp_path, rows, trials)
    failed = replace(trials[-1], result=replace(trials[-1].result, status=TrialState.FAILED))
    marks = arrange(rows, ["block_size"], [*trials, failed], 7).marks
    assert [len(mark.seeds) for mark in marks] == [3, 3, 3, 3]
    assert (with_seeds != without).any()


@pytest.mark.parametrize(("values", "key"), [(NUMBERS, "block_size"), (NAMES, "regularizer")])
def test_the_differences_stand_in_the_places_of_the_errors_with_a_dot_for_each_pair(values, key):
    rows, trials = sweep(values, ("none",), (key,))
    whole = arrange(rows, [key], trials, 7)
    apart = differences(whole, rows, [key], trials)
    errors = {
        value: {one.seed: one.result.test_error_pct for one in trials if one.values[key] == value}
        for (value,) in values
    }
    assert [mark.place for mark in apart.marks] == [value for (value,) in values[1:]]
    for mark, row in zip(apart.marks, rows[1:], strict=True):
        assert (mark.mean, mark.low, mark.high) == (row.delta_vs_baseline, row.delta_ci95_low, row.delta_ci95_high)
        assert mark.seeds == [errors[mark.place][seed] - errors["none"][seed] for seed in range(3)]
        if not whole.is_numeric:
            assert apart.position(mark) == whole.position(next(one for one in whole.marks if one.name == mark.name))
    assert (
        differences(arrange(*sweep(values, None, (key,))[:1], [key], [], 7), sweep(values, None, (key,))[0], [key], [])
        is None
    )


def test_a_grid_has_a_colour_for_each_value_of_the_other_key(tmp_path):
    keys = ["block_size", "drop_ratio"]
    rows, trials = sweep([("none", "none")] + [(k, g) for k in (1, 3, 5) for g in (0.1, 0.2)], ("none", "none"), keys)
    _, texts = draw(tmp_path, rows, trials, keys)
    assert {"block_size", "drop_ratio", "0.1", "0.2"} <= {*texts}
    grid = arrange(rows, keys, trials, 7)
    assert (grid.axis, grid.others, grid.is_numeric) == (["block_size"], ["drop_ratio"], True)
    assert {series: [mark.place for mark in marks] for series, marks in grid.series.items()} == {
        "0.1": [1, 3, 5],
        "0.2": [1, 3, 5],
    }


def test_numbers_run_along_the_axis_before_names_and_many_before_few():
    rows, _ = sweep([(m, k, g) for m in "abcd" for k in (1, 3) for g in (0.1, 0.2, 0.3)], None, ("m", "k", "g"))
    assert arrange(rows, ["m", "k", "g"], [], 8).axis == ["g"]


def test_where_colours_run_out_each_combination_has_a_row():
    rows, trials = sweep([(k, g) for k in range(8) for g in range(8)], None, ("k", "g"))
    grid = arrange(rows, ["k", "g"], trials, 7)
    assert (grid.axis, grid.others, grid.is_numeric) == (["k", "g"], [], False)
    assert "3 · 4" in grid.rows


def test_rows_beyond_counting_are_left_out_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(arrangement, "MOST_ROWS", 3)
    values = [(f"m{i}",) for i in range(12)]
    rows, trials = sweep(values, values[0], ("model",))
    rows[0] = replace(rows[0], test_error_pct_mean=99.0)
    _, texts = draw(tmp_path, rows, trials, ["model"])
    shown = {text for text in texts if (text,) in values}
    best = sorted(rows, key=lambda row: row.test_error_pct_mean)[:3]
    assert shown == {"m0"} | {row.values["model"] for row in best}  # the baseline stays
    assert "8 values that rank lower" in " ".join(texts)


@pytest.mark.parametrize("value", [None, True, "a", float("nan")])
def test_one_value_that_is_no_number_makes_them_all_names(value):
    rows, _ = sweep([(0.1,), (0.2,), (value,)], (0.1,), ("drop_ratio",))
    layout = arrange(rows, ["drop_ratio"], [], 7)
    assert not layout.is_numeric
    assert len(layout.placed) == 3


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([1, 2, 4, 8], True),
        ([0.01, 0.03, 0.1, 0.3, 1], True),
        ([0.1, 0.2, 0.5, 1], True),
        ([1, 3, 5, 7, 9], False),
        ([1, 2, 4], False),
        ([0, 1, 10, 100], False),
        ([1, 1000], False),
    ],
)
def test_only_a_clearly_geometric_sweep_is_logarithmic(places, expected):
    assert is_geometric(places) is expected


def test_intervals_that_would_dwarf_the_errors_run_out_of_the_picture():
    rows, trials = sweep(NUMBERS, ("none",), num_seeds=2)  # 12.7 standard errors to each side
    layout = arrange(rows, ["block_size"], trials, 7)
    errors = [trial.result.test_error_pct for trial in trials]
    low, high = layout.error_limits()
    assert low < min(errors) < max(errors) < high
    assert high - low < 3.5 * (max(errors) - min(errors))
    assert max(mark.high for mark in layout.marks) > high


@pytest.mark.parametrize(
    ("values", "baseline", "num_seeds"),
    [([], None, 3), (NUMBERS[:1], ("none",), 3), ([(5,)], None, 1), (NUMBERS, ("none",), 0), (NAMES, ("none",), 0)],
    ids=["nothing", "only the baseline", "one number", "no finished number", "no finished name"],
)
def test_a_sweep_that_hardly_began_has_a_picture(tmp_path, values, baseline, num_seeds):
    rows, trials = sweep(values, baseline, num_seeds=num_seeds)
    _, texts = draw(tmp_path, rows, trials)
    assert "block_size" in texts
    assert ("no finished trial" in texts) == (num_seeds == 0 or not values)


def test_ties_in_every_seed_have_a_picture(tmp_path):
    rows, _ = sweep(NUMBERS, None)
    figures = {"test_error_pct_mean": 2.5, "test_error_pct_std": 0.0, "ci95_low": None, "ci95_high": None}
    tied = [replace(row, **figures) for row in rows]
    draw(tmp_path, tied)


def test_names_are_no_formulas_and_no_markup(tmp_path):
    rows, trials = sweep([("$x^$_{",), ("<b>&",)], None, ("sites",))
    _, texts = draw(tmp_path, rows, trials, ["sites"])
    assert {"$x^$_{", "<b>&"} <= {*texts}


def test_the_same_table_gives_the_same_bytes_whatever_the_users_style(tmp_path):
    rows, trials = sweep(NUMBERS, ("none",))
    files = ("plot.pdf", "plot.png", "plot.svg")
    draw(tmp_path, rows, trials, pdf=tmp_path / "plot.pdf")
    before = [(tmp_path / name).read_bytes() for name in files]
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.facecolor": "red"}):
        draw(tmp_path, rows, trials, pdf=tmp_path / "plot.pdf")
    assert [(tmp_path / name).read_bytes() for name in files] == before
    assert sorted(os.listdir(tmp_path)) == sorted(files)


def test_the_pdf_embeds_no_font_and_no_time_and_leaves_the_svg_its_text(tmp_path):
    rows, trials = sweep(NUMBERS, ("none",))
    _, texts = draw(tmp_path, rows, trials, pdf=tmp_path / "plot.pdf")
    content = (tmp_path / "plot.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert b"/Type /Font" not in content
    assert b"CreationDate" not in content
    assert f"block_size: {SUBJECT}" in texts


def test_no_display_and_no_global_state_of_pyplot_is_needed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tdbench.sweep.plots import plot_sweep\n"
        f"plot_sweep([], ['k'], Path({str(tmp_path)!r}) / 'a.png', Path({str(tmp_path)!r}) / 'a.svg', subject='x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    bare = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], env=bare | {"MPLBACKEND": "tkagg"}, check=True)


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    rows, trials = sweep(NUMBERS, ("none",))
    with pytest.raises(FolderError, match="cannot write"):
        draw(tmp_path / "missing", rows, trials)


def test_what_no_font_here_can_write_is_said_once_and_stays_text_in_the_svg(tmp_path):
    name = "\U00013000\U00013001"  # hieroglyphs, which are in none of the fonts that are looked for
    rows, _ = sweep([(name,), ("drop",)], keys=("arm",))
    with pytest.warns(Note, match=f"has {name}: the PNG shows boxes") as told:
        plot_sweep(rows, ("arm",), tmp_path / "plot.png", tmp_path / "plot.svg", subject=SUBJECT)
    assert len(told) == 1
    assert name in (tmp_path / "plot.svg").read_text()


def test_the_other_test_error_stands_beside_the_one_that_the_verdict_is_about(tmp_path):
    plain, trials = with_bn(*sweep(NUMBERS, ("none",)))
    _, texts = draw(tmp_path, plain, trials)
    assert "with BatchNorm's statistics re-estimated" in " ".join(texts)
    marks, judged = (
        arrange(*with_bn(*sweep(NUMBERS, ("none",)), metric)[::1][:1], ["block_size"], trials, 7).marks
        for metric in ("test_error_pct", "test_error_pct_bn")
    )
    for mark, other in zip(marks, judged, strict=True):
        assert (other.mean, other.beside) == (mark.beside, mark.mean) == (pytest.approx(mark.mean - 1), mark.mean)
        assert other.seeds == [error - 1 for error in mark.seeds]
    _, texts = draw(tmp_path, *with_bn(*sweep(NUMBERS, ("none",)), "test_error_pct_bn"))
    assert "test error, BatchNorm's statistics re-estimated (%)" in texts
