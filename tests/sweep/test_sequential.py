"""The sequential design: what its p, its interval and its decisions promise, by simulation and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdbench.store.rows import Decision
from tdbench.sweep import sequential
from tdbench.sweep.inference import estimate, paired_p_values
from tdbench.sweep.judging import Evidence, seeds_wanted
from tdbench.sweep.sequential import Design, critical, interval, judge, null_minima, sequential_p, smallest_weighted_p
from tdbench.sweep.verdicts import summarise

GRID = [(3, 5), (3, 10), (5, 12)]
IMAGE = 100 / 360
FEW_PATHS = 100_000  # of the null, in place of a million: a p of 0.05 is then known to 0.0007


@pytest.fixture(autouse=True)
def _few_paths(monkeypatch):
    monkeypatch.setattr(sequential, "NUM_PATHS", FEW_PATHS)
    null_minima.cache_clear()
    yield
    null_minima.cache_clear()


def stood(differences, design):
    """Judge paths (values, N) all of whose trials have ended."""
    return judge(differences, np.ones(differences.shape, dtype=bool), design)


def final_p(paths, design):
    """Return the sequential p at the last look of each path (paths, N), as if it were alone."""
    return sequential_p(smallest_weighted_p(paths.T, design.first), design)


def within(share, expected, n, sigmas=3):
    assert abs(share - expected) <= sigmas * np.sqrt(expected * (1 - expected) / n), share


# What is promised where nothing makes a difference


@pytest.mark.parametrize(("first", "last"), GRID)
def test_a_difference_is_claimed_in_five_of_a_hundred_paths_without_any(first, last):
    paths = np.random.default_rng(1).standard_normal((20_000, last))
    within(np.mean(final_p(paths, Design(first, last)) <= 0.05), 0.05, len(paths))


@pytest.mark.parametrize("images", [0.5, 1, 2, 5])
def test_errors_of_few_images_claim_no_more(images):
    paths = np.round(images * np.random.default_rng(2).standard_normal((20_000, 10))) * IMAGE
    smallest = np.full(len(paths), np.inf)
    for n in range(3, 11):  # `judge` alone knows what to do with differences without scatter
        smallest = np.fmin(smallest, paired_p_values(estimate(paths[:, :n])) * 10 / n)
    claimed = sequential_p(smallest, Design(3, 10)) <= 0.05
    assert np.mean(claimed) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(paths))
    assert np.array_equal(claimed[:200], [stood(row[None], Design(3, 10)).p[0] <= 0.05 for row in paths[:200]])


def test_a_family_with_a_shared_baseline_and_true_effects_claims_a_false_one_in_five_of_a_hundred():
    generator, design, false_claims = np.random.default_rng(3), Design(3, 10), 0
    num_sweeps, effects = 600, np.array([0, 0, 0, 2.0, -3.0])
    for _ in range(num_sweeps):
        errors = generator.standard_normal((6, 10))
        decisions = stood(errors[1:] + effects[:, None] - errors[0], design).decisions
        false_claims += any(decision in (Decision.HELPS, Decision.HURTS) for decision in decisions[:3])
    assert false_claims / num_sweeps <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_sweeps)


def test_the_interval_covers_the_difference_whenever_one_stops():
    generator, design, covered, paths = np.random.default_rng(4), Design(3, 10), 0, 4000
    for _ in range(paths):
        row = 0.7 + generator.standard_normal((1, 10))
        stop = 3 + int(np.argmax(np.abs(np.cumsum(row[0])[2:])))  # where it looks most unlike 0
        low, high = interval(estimate(row[:, :stop]), design)
        covered += low[0] <= 0.7 <= high[0]
    assert covered / paths >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / paths)


@pytest.mark.parametrize(("last", "c"), [(10, 0.0189), (20, 0.0152)])
def test_the_critical_value_is_the_published_one(last, c):
    assert critical(Design(3, last)) == pytest.approx(c, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("effect", "last", "power", "mean_seeds"), [(1, 10, 0.68, 8.1), (1.5, 10, 0.96, 6.5), (1, 20, 0.97, 11)]
)
def test_power_and_seeds_are_those_of_the_design(effect, last, power, mean_seeds):
    paths = effect + np.random.default_rng(5).standard_normal((1500, last))
    standings = [stood(row[None], Design(3, last)) for row in paths]
    decided = [standing.decisions[0] is Decision.HURTS for standing in standings]
    assert np.mean(decided) == pytest.approx(power, abs=0.05)
    assert np.mean([standing.num_seeds[0] for standing in standings]) == pytest.approx(mean_seeds, abs=0.6)


# Properties


errors = st.lists(st.integers(-40, 40).map(lambda images: images * IMAGE), min_size=8, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(errors, min_size=1, max_size=4))
def test_p_never_rises_with_more_seeds(rows):
    differences, design, before = np.array(rows), Design(3, 8), np.ones(len(rows))
    for n in range(3, 9):
        is_over = np.zeros(differences.shape, dtype=bool)
        is_over[:, :n] = True
        p = judge(differences, is_over, design).p
        assert (p <= before).all()
        before = p


@settings(max_examples=60, deadline=None)
@given(errors)
def test_one_look_alone_gives_the_p_of_a_fixed_design(row):
    differences = np.array([row])
    assert stood(differences, Design(8, 8)).p == pytest.approx(paired_p_values(estimate(differences)))


@settings(max_examples=40, deadline=None)
@given(errors, st.floats(0.01, 100))
def test_scale_does_not_matter(row, scale):
    differences, design = np.array([row]), Design(3, 8)
    assert stood(differences, design).p == pytest.approx(stood(differences * scale, design).p, abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(errors, min_size=2, max_size=5))
def test_a_value_more_never_lowers_the_corrected_p_of_another(rows):
    differences, design = np.array(rows), Design(8, 8)
    fewer, more = stood(differences[:-1], design), stood(differences, design)
    assert (more.p_holm[:-1] >= fewer.p_holm - 1e-12).all()


# Who gets seeds


def evidence(table, ended, design, **knobs):
    """Return the evidence of values (rows of errors, the baseline first) of which so many seeds have ended."""
    errors = {str(row): dict(enumerate(line[:n])) for row, (line, n) in enumerate(zip(table, ended, strict=True))}
    baselines = {name: "0" for name in errors if name != "0"}
    over = {name: frozenset(range(n)) for name, n in zip(errors, ended, strict=True)}
    return Evidence(errors, baselines, design=design, ended=over, seeds=range(design.last), **knobs)


CLEAR, EQUAL = [9.0, 9.3, 9.2, 9.1, 9.0, 9.15], [2.0, 1.0, 2.5, 1.5, 2.0, 1.0]
NONE = [1.5, 1.6, 1.7, 1.65, 1.5, 1.7]


def test_a_decided_value_gets_no_more_seeds_and_the_baseline_keeps_pace_with_the_furthest():
    design = Design(3, 6)
    assert seeds_wanted(evidence([NONE, CLEAR, EQUAL], [0, 0, 0], design)) == {"0": 3, "1": 3, "2": 3}
    assert seeds_wanted(evidence([NONE, CLEAR, EQUAL], [3, 3, 2], design)) == {"0": 3, "1": 3, "2": 3}
    assert seeds_wanted(evidence([NONE, CLEAR, EQUAL], [3, 3, 3], design)) == {"0": 4, "1": 3, "2": 4}
    rows = summarise(evidence([NONE, CLEAR, EQUAL], [6, 3, 6], design))
    assert rows["1"].verdict == "hurts"
    assert (rows["1"].n, rows["2"].n, rows["0"].n) == (3, 6, 6)
    assert rows["2"].verdict.startswith("undecided at 6 seeds (the difference is between −")
    assert rows["1"].design == "3..6"


def test_a_value_within_the_smallest_difference_that_matters_is_equivalent_and_stops():
    close = [error + 0.01 * number for number, error in enumerate(NONE)]
    design = Design(3, 6, smallest=0.5)
    rows = summarise(evidence([NONE, close, EQUAL], [3, 3, 3], design))
    assert rows["1"].verdict == "equivalent within ±0.5"
    assert rows["2"].verdict == "not decided yet (3 of at most 6 seeds)"
    assert seeds_wanted(evidence([NONE, close, EQUAL], [3, 3, 3], design)) == {"0": 4, "1": 3, "2": 4}


def test_a_trial_without_a_figure_is_over_but_is_no_seed_that_counts():
    found = evidence([NONE, CLEAR], [4, 4], Design(3, 6))
    del found.errors["1"][1]
    assert seeds_wanted(found)["1"] == 4  # three pairs at the fourth seed: the first look
    assert summarise(found)["1"].decision is Decision.HURTS


def test_what_ran_after_the_decision_does_not_count():
    design = Design(3, 6)
    early, late = (summarise(evidence([NONE, CLEAR], [n, n], design))["1"] for n in (3, 6))
    assert early == late


def test_a_claim_is_that_of_the_look_at_which_p_was_smallest():
    """The first value's p is too large at its first look beside the second, whose decision lets it pass much later."""
    turned = np.array([-1.0, -1.13, -0.87, 4, 4.2, 4.1, 4, 4.3])
    late = np.array([2, -1.5, 2, 1.8, 2.2, 2.1, 1.9, 2.0])
    standing = stood(np.array([turned, late]), Design(3, 8))
    assert standing.decisions == [Decision.HELPS, Decision.HURTS]
    assert standing.num_seeds.tolist() == [8, 8]
    assert standing.estimate.mean[0] > 0


def test_a_value_without_any_figure_is_given_up_at_the_first_look():
    found = evidence([NONE, CLEAR], [3, 3], Design(3, 6))
    found.errors["1"].clear()
    assert seeds_wanted(found) == {"0": 3, "1": 3}
    assert summarise(found)["1"].decision is Decision.TOO_FEW


def test_a_row_that_is_not_decided_yet_is_of_its_last_look():
    found = evidence([NONE, EQUAL, EQUAL], [4, 4, 3], Design(3, 6))  # the fourth look waits for the other value
    row = summarise(found)["1"]
    assert (row.n, row.verdict) == (3, "not decided yet (3 of at most 6 seeds)")
    assert row.delta_vs_baseline == pytest.approx((row.delta_ci95_low + row.delta_ci95_high) / 2)


def test_the_null_is_kept_and_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = null_minima(3, 4)
    (kept,) = (tmp_path / "tdbench").glob("sequential-3-4-*.npy")
    null_minima.cache_clear()
    assert np.array_equal(null_minima(3, 4), first)
    kept.write_bytes(kept.read_bytes()[:1000])
    null_minima.cache_clear()
    assert np.array_equal(null_minima(3, 4), first)
    assert kept.stat().st_size > 8 * FEW_PATHS
