"""The figures in README.md are those of the files that a command wrote."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (.*) \|$", README, re.MULTILINE)
ON_A_GPU = sorted((ROOT / "ablations" / "results").glob("*_fashion_mnist"))
ON_A_GPU.remove(ROOT / "ablations" / "results" / "dropblock_fashion_mnist")


def figure(text, form="+.2f"):
    return format(float(text), form).replace("-", "−") if text else "—"


def rows_of(folder):
    with open(folder / "summary.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("sweep", "value", "told"), ROWS, ids=lambda text: text[:20])
def test_a_row_of_a_table_is_that_of_the_sweep(sweep, value, told):
    folder = ROOT / "ablations" / "results" / (sweep if "_openclipart" in sweep else f"{sweep}_fashion_mnist")
    (row,) = [row for row in rows_of(folder) if next(iter(row.values())) == value]
    interval = f"({figure(row['delta_ci95_low'])} to {figure(row['delta_ci95_high'])})"
    difference = figure(row["delta_vs_baseline"])
    assert told.split(" | ") == [
        row["n"],
        figure(row["test_error_pct_mean"], ".2f"),
        difference if difference == "—" else f"{difference} {interval}",
        figure(row["delta_bn_vs_baseline"]),
        figure(row["dropped_pct"], ".2f"),
        row["verdict"].partition(" (")[0],
    ]


def row_of(sweep, method):
    """Return the row of a method in a committed sweep, and the README as one running text."""
    (row,) = [row for row in rows_of(ROOT / "ablations" / "results" / sweep) if row["regularizer"] == method]
    return row, " ".join(README.split())


def test_where_dropblock_helps_and_spatial_dropout_hurts_is_said_with_the_interval():
    row, text = row_of("dropblock_fashion_mnist", "dropblock")
    gain, low, high = (
        f"{-float(row[name]):.2f}" for name in ("delta_vs_baseline", "delta_ci95_high", "delta_ci95_low")
    )
    told = f"{gain} points (95 % interval {low} to {high}, n = {row['n']} pairs, p = {float(row['p_holm']):.3f})"
    assert row["verdict"] == "helps"
    assert f"**It helps**, by {told}" in text
    assert float(row["delta_bn_vs_baseline"]) <= float(row["delta_vs_baseline"]), "none of it is BatchNorm's"
    row, text = row_of("methods_openclipart", "spatial_dropout")
    loss, low, high = (f"{float(row[name]):.2f}" for name in ("delta_vs_baseline", "delta_ci95_low", "delta_ci95_high"))
    told = f"{loss} points (95 % interval {low} to {high}, n = {row['n']} pairs, p = {float(row['p_holm']):.3f})"
    assert row["verdict"] == "hurts"
    assert f"**SpatialDropout hurts**, by {told}; 20 seeds do not decide about the others" in text
    others = rows_of(ROOT / "ablations" / "results" / "methods_openclipart")
    assert sum(row["verdict"].startswith("undecided at 20 seeds") for row in others) == 3


def test_the_loss_on_clip_art_is_that_of_the_sweep():
    row, text = row_of("methods_openclipart", "spatial_dropout")
    loss, low, high = (f"{-float(row[f'delta_test_loss{end}']):.2f}" for end in ("", "_ci95_high", "_ci95_low"))
    assert f"lower, by {loss} (95 % interval {low} to {high}, n = {row['n']}; secondary" in text


def test_what_is_said_of_all_sweeps_together_is_so():
    assert len(ROWS) > 5
    every = [row for folder in ON_A_GPU for row in rows_of(folder)]
    compared = [row for row in every if row["p_holm"]]
    decided = [row for row in compared if row["verdict"].partition(" ")[0] in ("helps", "hurts", "equivalent")]
    counts = [int(row["n"]) for row in compared]
    assert f"One of {len(compared)} comparisons is decided: γ = 0.5 hurts" in README
    assert [row.get("drop_ratio") for row in decided] == ["0.5"]
    assert f"at {min(counts)} to {max(counts)} of at most 20 seeds" in README
    num_runs = 0
    for folder in ON_A_GPU:
        with open(folder / "trials.csv", encoding="utf-8") as file:
            num_runs += sum(row["status"] == "done" for row in csv.DictReader(file))
    assert f"{num_runs} runs on one H100" in README
