"""Runs that were made elsewhere, against hand-computed numbers; what cannot be compared is refused in a line."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
from scipy import stats

import tdbench
from tdbench.errors import ConfigError, FolderError
from tdbench.sweep.compare import COLUMNS, compare

ACCURACY = {"none": [90.0, 88.0, 89.0, 91.0], "cutout": [92.0, 91.0, 90.0, 94.0], "dropout": [90.0, 89.0, 88.0, 91.0]}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path="results.csv", table=ACCURACY, more=(), names=("arm", "seed", "accuracy")):
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([arm, seed, x] for arm, values in table.items() for seed, x in enumerate(values))
        writer.writerows(more)
    return path


def test_a_table_is_compared_pair_by_pair_as_by_hand():
    found = compare(write(), value="arm", metric="accuracy", higher_is_better=True)
    baseline, cutout, dropout = found.rows
    assert [row["value"] for row in found.rows] == ["none", "cutout", "dropout"]
    assert (baseline["verdict"], baseline["n"], baseline["mean"]) == ("baseline", 4, 89.5)
    differences = [2.0, 3.0, 1.0, 3.0]
    t = stats.ttest_1samp(differences, 0)
    half = stats.t.ppf(0.975, 3) * 0.957427107756 / 2
    assert (cutout["delta_vs_baseline"], cutout["num_better"]) == (2.25, 4)
    assert (cutout["delta_ci95_low"], cutout["delta_ci95_high"]) == pytest.approx((2.25 - half, 2.25 + half))
    assert (cutout["p_value"], cutout["p_holm"]) == pytest.approx((t.pvalue, 2 * t.pvalue))
    assert (cutout["verdict"], dropout["num_better"]) == ("helps", 1)
    assert dropout["verdict"].startswith("no detectable difference (could have seen ≥ ")
    assert "points" not in dropout["verdict"]
    assert list(cutout) == ["value", *COLUMNS]


def test_of_an_error_less_is_better_and_any_value_can_be_the_baseline():
    found = compare(write(), value="arm", metric="accuracy", baseline="cutout")
    assert {row["value"]: row["verdict"] for row in found.rows}["none"] == "helps"  # of errors, less is
    assert found.rows[0]["value"] == "cutout"


def test_rows_in_any_order_with_unfinished_runs_and_several_files():
    write("a.csv", {"none": ACCURACY["none"]})
    write("b.csv", {"cutout": [*reversed(ACCURACY["cutout"])]}, [["cutout", 9, ""]])
    found = compare("a.csv", "b.csv", value="arm", metric="accuracy", higher_is_better=True)
    assert [row["n"] for row in found.rows] == [4, 4]
    assert found.rows[1]["delta_vs_baseline"] == pytest.approx(2.25)


def test_unpaired_runs_are_refused_or_tested_by_welch():
    table = {"none": ACCURACY["none"]}
    write(table=table, more=[["cutout", seed, x] for seed, x in enumerate(ACCURACY["cutout"], 10)])
    with pytest.raises(ConfigError, match=r"cutout and none share 0 seed\(s\).*--unpaired"):
        compare("results.csv", value="arm", metric="accuracy")
    found = compare("results.csv", value="arm", metric="accuracy", higher_is_better=True, unpaired=True)
    row, welch = found.rows[1], stats.ttest_ind(ACCURACY["cutout"], ACCURACY["none"], equal_var=False)
    assert row["p_holm"] == pytest.approx(welch.pvalue)
    assert row["delta_ci95_low"] == pytest.approx(welch.confidence_interval().low)
    assert row["verdict"] == ("helps (unpaired)" if welch.pvalue <= 0.05 else "no detectable difference (unpaired)")
    assert (row["num_better"], row["detectable"]) == (None, None)


@pytest.mark.parametrize(
    ("more", "knobs", "message"),
    [
        ([], {"value": "arms"}, r"has no column 'arms' for --value; did you mean arm\? \(it has arm, seed, accuracy\)"),
        ([], {"metric": "acuracy"}, r"has no column 'acuracy' for --metric"),
        ([], {"seed": "run"}, r"has no column 'run' for --seed"),
        ([], {"value": None}, r"--value must name the column"),
        ([["cutout", 4, "high"]], {}, r"line 14 of results.csv: the metric must be a number, got 'high'"),
        ([["cutout", 4, "nan"]], {}, r"line 14 of results.csv: the metric must be a number, got 'nan'"),
        ([["cutout", 3, 90]], {}, r"line 14 of results.csv: cutout with seed 3 stands there twice"),
        ([["mixup", 0, 90]], {}, r"mixup and none share 1 seed\(s\)"),
        (
            [],
            {"baseline": "non"},
            r"--baseline must be one of the values none, cutout, dropout, got 'non'; did you mean none",
        ),
    ],
)
def test_a_table_that_cannot_be_compared_is_refused_in_a_line(more, knobs, message):
    write(more=more)
    with pytest.raises(ConfigError, match=message):
        compare("results.csv", **{"value": "arm", "metric": "accuracy", **knobs})


def test_without_a_baseline_and_without_files():
    write(table={"a": ACCURACY["none"], "b": ACCURACY["cutout"]})
    with pytest.raises(ConfigError, match="--baseline must say which value the others are compared with, of a, b"):
        compare("results.csv", value="arm", metric="accuracy")
    with pytest.raises(FolderError, match="is neither a CSV file nor a folder"):
        compare("missing", value="arm")
    Path("empty").mkdir()
    with pytest.raises(FolderError, match="holds no finished run"):
        compare("empty", value="block_size")


TINY = {"train_fraction": 0.1, "max_steps": 2, "batch_size": 32, "threads": 1}


@pytest.mark.slow
def test_sweeps_and_their_runs_give_what_they_gave_themselves():
    knobs = {"param": {"block_size": [3, 5]}, "seeds": 3, "jobs": 1}
    sweep = tdbench.ablate(out="slow", **knobs, **TINY)
    found = compare("slow", value="block_size")
    rows = {row["value"]: row for row in found.rows}
    assert found.rows[0]["value"] == "none"
    for _, own in sweep.summary.iterrows():
        row = rows[str(own.block_size)]
        assert row["mean"] == pytest.approx(own.test_error_pct_mean)
        assert row["verdict"] == own.verdict
    tdbench.ablate(out="fast", lr=0.2, **knobs, **TINY)
    found = compare("slow", "fast", metric="test_loss")
    assert found.differences == ["optimizer.lr: default in slow, 0.2 in fast"]
    assert {row["value"] for row in found.rows} == {f"{name}: {k}" for name in ("slow", "fast") for k in ("none", 3, 5)}
    one, other = (tdbench.read_sweep(name).trials for name in ("slow", "fast"))
    mean = (other.test_loss - one.test_loss)[one.block_size == "5"].mean()
    row = next(row for row in found.rows if row["value"] == "fast: 5")
    assert row["delta_vs_baseline"] == pytest.approx(mean)
    with pytest.raises(ConfigError, match="is a sweep, which has its verdicts"):
        compare("slow")
    with pytest.raises(ConfigError, match=r"--metric test_los: slow has no such figure; did you mean test_loss"):
        compare("slow", "fast", metric="test_los")


def test_the_command_prints_writes_and_says(capsys):
    from tdbench.cli import main

    command = ["compare", write(), "--value", "arm", "--metric", "accuracy", "--higher-is-better"]
    assert main([*command, "--out", "told"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy (more is better), paired by seed" in shown
    assert "helps" in shown
    with Path("told/compare.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["value", *COLUMNS]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert math.isclose(told["values"][1]["delta_vs_baseline"], 2.25)
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("none: baseline; cutout: helps; dropout: no detectable difference")
    assert main(["compare"]) == 2


def test_runs_that_are_left_out_are_told():
    write(table={"none": [1.0, 2.0, 3.0, 4.0], "a": [2.0, 3.5, 4.0]})
    found = compare("results.csv", value="arm", metric="accuracy")
    assert found.differences == ["a: 1 seed left out, of which it or none has no run: 3"]


@pytest.mark.slow
def test_sweeps_of_a_script_are_compared_by_their_own_metric_and_their_looks_are_told(tmp_path):
    script = "import sys; print('acc=' + str(float(sys.argv[1]) * 10 + int(sys.argv[2]) + {}))"
    for name, more in (("one", 0), ("two", 5)):
        Path("train.py").write_text(script.format(more + 0.01 * more))
        tdbench.ablate(
            None,
            {"p": [0, 1]},
            baseline="p=0",
            command=f"{sys.executable} train.py {{p}} {{seed}}",
            read="stdout:acc=(.*)",
            higher_is_better=True,
            seeds="3..4",
            out=f"{name}/confirm",
        )
    found = compare("one/confirm", "two/confirm")
    assert found.metric == "acc"
    assert found.more_is_better
    named = {row["value"]: row for row in found.rows}
    assert named["two/confirm: 1"]["delta_vs_baseline"] == pytest.approx(5.05)
    assert [line for line in found.differences if "chosen by looking" in line]


def test_figures_have_as_many_decimals_as_each_other_and_pairs_are_counted_as_pairs(capsys):
    from tdbench.cli import main

    path = write(table={"none": [91.2, 90.8, 91.0, 90.9], "ema": [91.3, 90.7, 91.4]}, more=[["ema", 9, 91.0]])
    assert main(["compare", path, "--value", "arm", "--metric", "accuracy", "--higher-is-better", "--out", "told"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "│ none │ 4 │ 90.97 ± 0.17 │ — │" in shown
    assert "│ ema │ 4 │ 91.10 ± 0.32 │ +0.13 │ −0.49 to +0.76 │ 2 of 3 │" in shown
    with Path("told/compare.csv").open(newline="") as file:
        assert [(row["n"], row["num_pairs"]) for row in csv.DictReader(file)] == [("4", "0"), ("4", "3")]


def test_small_figures_keep_the_digits_of_their_deviations():
    from tdbench.cli.compare import form_of

    assert form_of([{"mean": 0.9097, "std": 0.0017}, {"mean": 0.9175, "std": 0.0026}]) == ".4f"
    assert form_of([{"mean": 1000.0, "std": 0.013}]) == ".3f"
    assert form_of([{"mean": 1500.0, "std": 120.0}, {"mean": None, "std": None}]) == ".0f"
    assert form_of([{"mean": 0.0, "std": 0.0}]) == ".2f"
