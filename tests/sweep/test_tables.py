"""The summary for people: what stands in a cell, what the text says, and what is left out where it says nothing."""

import math
from dataclasses import replace

import pytest

from tdbench.store.rows import RunResult, TrialRow, TrialState
from tdbench.sweep.columns import value_words
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.tables import published_name, summary_markdown
from tests.sweep.one_baseline import summarise

SUBJECT = "targetdrop, resnet8 on digits, 20 epochs"


def rows_of(errors, baseline, keys=("block_size",)):
    """Return the summary of errors of the seeds 0, 1, 2, ... by value."""
    errors = {value: dict(enumerate(of_seeds)) for value, of_seeds in errors.items()}
    return [
        replace(row, values=dict(zip(keys, value, strict=True)), dropped_pct=0.5612, train_img_per_s=3214.5)
        for value, row in summarise(errors, baseline).items()
    ]


def table_of(text):
    """Return the table of a Markdown text as a list of {column: cell}."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


ERRORS = {("none",): (10, 12, 11), (3,): (9, 10, 8), (5,): (5, 7.1, 5.9), (7,): (30, 29)}


def test_a_row_shows_the_figures_of_the_summary_as_a_reader_wants_them():
    rows = rows_of(ERRORS, ("none",))
    rows[1] = replace(rows[1], p_holm=0.1034, verdict="no detectable difference (could have seen ≥ 5.67 points)")
    table = table_of(summary_markdown(rows, ["block_size"], subject=SUBJECT))
    assert [row["block_size"] for row in table] == ["none", "3", "5", "7"]
    assert table[1] == {
        "block_size": "3",
        "n": "3",
        "error % (mean ± std)": "9.00 ± 1.00",
        "95 % interval": "6.52 to 11.48",
        "difference": "−2.00",
        "its 95 % interval": "−4.48 to +0.48",
        "better in": "3 of 3",
        "p (Holm)": "0.103",
        "verdict": "no detectable difference (could have seen ≥ 5.67 points)",
        "dropped %": "0.561",
        "images/s": "3,214",
    }
    assert table[0]["difference"] == table[0]["p (Holm)"] == "—"
    assert [row["verdict"] for row in (table[0], table[2])] == ["baseline", "helps"]


def test_the_text_says_what_was_swept_on_what_with_n_and_against_what():
    text = summary_markdown(rows_of(ERRORS, ("none",)), ["block_size"], subject=SUBJECT)
    assert text.startswith(f"# Sweep of block_size: {SUBJECT}\n\n")
    assert "n = 2 to 3 seeds per value, compared seed by seed with the baseline block_size none." in text
    assert "last epoch, not of the best one" in text
    assert "Holm's correction for the 3 values compared" in text
    assert text.endswith("\n")
    assert "\n\n\n" not in text


def test_one_seed_is_a_seed():
    text = summary_markdown(rows_of({(3,): (9,)}, None), ["block_size"], subject=SUBJECT)
    assert "n = 1 seed per value." in text
    assert table_of(text)[0]["error % (mean ± std)"] == "9.00"


def test_without_a_baseline_nothing_is_said_of_differences():
    text = summary_markdown(rows_of(ERRORS, None), ["block_size"], subject=SUBJECT)
    assert not {"difference", "its 95 % interval", "p (Holm)"} & set(table_of(text)[0])
    assert "Holm" not in text


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_missing_figure_is_a_dash(nothing):
    rows = rows_of(ERRORS, ("none",))
    rows[1] = replace(rows[1], dropped_pct=nothing, ci95_low=nothing, ci95_high=nothing, test_error_pct_std=nothing)
    cells = table_of(summary_markdown(rows, ["block_size"], subject=SUBJECT))[1]
    assert (cells["dropped %"], cells["95 % interval"], cells["error % (mean ± std)"]) == ("—", "—", "9.00")


def test_a_rounded_zero_has_no_sign_and_a_tiny_p_no_zero():
    rows = rows_of(ERRORS, ("none",))
    rows[1] = replace(rows[1], delta_vs_baseline=-0.001, p_holm=0.0002)
    cells = table_of(summary_markdown(rows, ["block_size"], subject=SUBJECT))[1]
    assert (cells["difference"], cells["p (Holm)"]) == ("0.00", "<0.001")


@pytest.mark.parametrize("metric", ["test_error_pct", "test_error_pct_bn"])
def test_batchnorm_s_share_stands_beside_and_is_said_to_be_secondary_unless_it_is_judged(metric):
    figures = {"delta_bn_vs_baseline": -0.5, "delta_bn_ci95_low": -1.0, "delta_bn_ci95_high": 0.0}
    rows = [
        replace(row, test_error_pct_bn_mean=8.0, test_error_pct_bn_std=0.25, metric=metric, **figures)
        for row in rows_of(ERRORS, ("none",))
    ]
    text = summary_markdown(rows, ["block_size"], subject=SUBJECT)
    cells = table_of(text)[1]
    assert cells["error %, BN re-estimated"] == "8.00 ± 0.25"
    is_secondary = metric == "test_error_pct"
    assert ("no verdict is about it" in text, "as was declared" in text) == (is_secondary, not is_secondary)
    assert cells.get("difference, BN re-estimated") == ("−0.50" if is_secondary else "−2.00")
    assert cells.get("95 % interval, BN re-estimated") == ("−1.00 to 0.00" if is_secondary else None)


def test_a_grid_has_a_column_for_each_key():
    errors = {(0.15, ("stage1", "stage2")): (9, 10), (0.15000000000000002, None): (9, 11)}
    rows = rows_of(errors, None, ("drop_ratio", "sites"))
    text = summary_markdown(rows, ["drop_ratio", "sites"], subject=SUBJECT)
    assert text.startswith("# Sweep of drop_ratio × sites: ")
    assert [(row["drop_ratio"], row["sites"]) for row in table_of(text)] == [
        ("0.15", "stage1+stage2"),
        ("0.15", "null"),
    ]


def test_published_figures_stand_beside_ours_with_their_source():
    published = {"none": 4.72, 5: 3.99}
    text = summary_markdown(
        rows_of(ERRORS, ("none",)),
        ["block_size"],
        subject=SUBJECT,
        published=published,
        published_source="A paper, n = 5",
    )
    assert [row["published error %"] for row in table_of(text)] == ["4.72", "—", "3.99", "—"]
    assert "Published errors: A paper, n = 5." in text


def test_published_figures_of_a_grid_go_by_the_values_of_all_keys():
    rows = rows_of({("cutout", "cifar10"): (4, 4), ("cutout", "cifar100"): (22, 23)}, None, ("regularizer", "data"))
    text = summary_markdown(
        rows, ["regularizer", "data"], subject=SUBJECT, published={("cutout", "cifar100"): 21.96}, published_source="x"
    )
    assert [row["published error %"] for row in table_of(text)] == ["—", "21.96"]


def test_trials_without_a_result_are_listed_with_their_reason():
    ends = [
        ("ab12", TrialState.DONE, 0, 7, None),
        ("cd34", TrialState.DIVERGED, 2, 7, "the loss is NaN\nafter step 113"),
        ("ef56", TrialState.FAILED, 1, 9, ""),
    ]
    trials = [
        TrialRow(trial, state, seed, {"block_size": value}, RunResult(state, trial, seed, error=error))
        for trial, state, seed, value, error in ends
    ]
    text = summary_markdown(rows_of(ERRORS, ("none",)), ["block_size"], subject=SUBJECT, trials=trials)
    assert text.endswith(
        "## Without a result: 2 of 3 trials\n\n"
        "- block_size 7, seed 2: diverged: the loss is NaN after step 113 (trial cd34)\n"
        "- block_size 9, seed 1: failed (trial ef56)\n"
    )


def test_names_that_mean_something_to_markdown_are_shown_as_they_are():
    rows = rows_of({("stage1.*|x",): (9, 10)}, None, ("sites",))
    assert r"| stage1.\*\|x |" in summary_markdown(rows, ["sites"], subject=SUBJECT)


def test_a_sweep_of_nothing_has_a_summary():
    assert "No trial was planned." in summary_markdown([], ["block_size"], subject=SUBJECT)


def test_a_published_error_without_a_row_is_told_and_its_name_may_be_a_number():
    experiment = Experiment(sweep={"block_size": (3, 5)}, published={3: 4.5, 7: 6.25}, published_source="a paper")
    assert experiment.published == {"3": 4.5, "7": 6.25}
    text = summary_markdown([], ["block_size"], subject="x", published=experiment.published, published_source="a paper")
    assert "Published, and not among the values here: 3 4.50, 7 6.25." in text
    assert published_name(experiment.published, {"block_size": 3}, ["block_size"]) == "3"
    assert Experiment(arms={1: {"lr": 0.1}, 2: {"lr": 0.2}}).arms.keys() == {"1", "2"}


def test_what_is_secondary_has_a_table_of_its_own_and_strong_skewness_is_told():
    rows = rows_of({("none",): (10, 12, 11, 10, 12), (3,): (10, 12, 11, 10, 19)}, ("none",))
    rows[1] = replace(rows[1], delta_test_loss=-0.0312, delta_test_loss_ci95_low=-0.05, delta_test_loss_ci95_high=-0.01)
    text = summary_markdown(rows, ["block_size"], subject=SUBJECT)
    assert "## Secondary" in text
    assert "−0.0312 (−0.0500 to −0.0100)" in text
    assert "no verdict is about them" in text
    assert "strongly skewed" in text
    assert "block_size 3 (1.50)" in text
    plain = summary_markdown(rows_of(ERRORS, ("none",)), ["block_size"], subject=SUBJECT)
    assert "Secondary" not in plain
    assert "skewed" not in plain


def test_a_value_that_is_no_name_stands_with_its_key():
    values = {"regularizer": "dropblock", "augment.mixup": 0.2, "block_size": 3, "augment.flip": "true", "p": ".05"}
    assert value_words(values) == "dropblock, mixup 0.2, block_size 3, flip true, p .05"
    assert value_words({"drop_ratio": "none"}) == "none"
