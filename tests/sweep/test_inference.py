"""The figures by hand and by scipy, and by simulation what they promise: coverage, false positives, power."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tdbench.store.rows import Decision, SummaryRow, columns
from tdbench.sweep import judging, verdicts
from tdbench.sweep.columns import is_skewed
from tdbench.sweep.inference import detectable_difference, holm, skewness
from tests.sweep.one_baseline import summarise

IMAGE = 100 / 360  # what one of the digits' 360 test images is worth, in per cent


def numbered(*errors):
    """Return errors of the seeds 0, 1, 2, ..."""
    return dict(enumerate(errors))


def sweep(table):
    """Return a (values, seeds) array as the errors of a sweep."""
    return {value: numbered(*row) for value, row in enumerate(table.tolist())}


def figures_of(row):
    """Return the figures of a row, in the order of the columns, up to the verdict."""
    return [getattr(row, name) for name in columns(SummaryRow)[:10]]


def seen_points(verdict):
    return float(re.fullmatch(r"no detectable difference \(could have seen ≥ (\d+\.\d\d) points\)", verdict)[1])


# By hand


def test_the_figures_are_those_of_a_hand_calculation():
    summary = summarise({"none": numbered(10, 12, 11), "k=5": numbered(9, 10, 8)}, baseline="none")["k=5"]
    half = 4.302653 / math.sqrt(3)  # t of 97.5 % with two degrees of freedom; both standard deviations are 1
    p = 1 - math.sqrt(12) / math.sqrt(12 + 2)  # two-sided, t = -2 / (1 / √3), in closed form for two degrees
    assert figures_of(summary) == pytest.approx([3, 9, 1, 9 - half, 9 + half, -2, -2 - half, -2 + half, p, p], abs=1e-6)


def test_the_error_with_batchnorm_re_estimated_stands_beside_and_may_be_what_is_judged():
    errors = {"none": numbered(10, 12, 11, 10), "k=5": numbered(19, 21, 20, 19.5)}
    errors_bn = {"none": numbered(9, 9.5, 10), "k=5": numbered(9, 9.25, 10.5)}  # a seed has none
    baselines = {"k=5": "none"}
    plain = verdicts.summarise(judging.Evidence(errors, baselines, errors_bn))["k=5"]
    judged = verdicts.summarise(judging.Evidence(errors, baselines, errors_bn, "test_error_pct_bn"))["k=5"]
    alone = verdicts.summarise(judging.Evidence(errors_bn, baselines))["k=5"]
    for row in (plain, judged):
        assert (row.n, row.test_error_pct_mean, row.ci95_low) == (4, 19.875, plain.ci95_low)
        beside = row.test_error_pct_bn_mean, row.test_error_pct_bn_std, row.ci95_bn_low, row.ci95_bn_high
        assert beside == (alone.test_error_pct_mean, alone.test_error_pct_std, alone.ci95_low, alone.ci95_high)
        delta = row.delta_bn_vs_baseline, row.delta_bn_ci95_low, row.delta_bn_ci95_high
        assert delta == (alone.delta_vs_baseline, alone.delta_ci95_low, alone.delta_ci95_high)
    assert (plain.decision, plain.delta_vs_baseline, plain.metric) == (Decision.HURTS, 9.125, "test_error_pct")
    assert (judged.verdict, judged.p_holm, judged.metric) == (alone.verdict, alone.p_holm, "test_error_pct_bn")
    assert judged.delta_vs_baseline == alone.delta_vs_baseline != 9.125


def test_holm_steps_down_and_never_falls():
    p_values = np.array([0.01, 0.04, 0.03, 0.005])
    # 0.005 · 4 = 0.02, 0.01 · 3 = 0.03, 0.03 · 2 = 0.06, and 0.04 · 1 is raised to the 0.06 before it
    np.testing.assert_allclose(holm(p_values), [0.03, 0.06, 0.06, 0.02])


def test_holm_does_not_count_tests_that_were_not_made_and_stops_at_one():
    np.testing.assert_array_equal(holm(np.array([0.9, np.nan, 0.02, 0.8])), [1, np.nan, 0.06, 1])
    assert holm(np.array([])).size == 0


def test_only_seeds_that_both_have_are_compared():
    errors = {"none": {0: 10.0, 1: 12.0, 2: 11.0, 8: 30.0}, "k=5": {2: 8.0, 9: 60.0, 1: 10.0, 0: 9.0}}
    summary = summarise(errors, "none")["k=5"]
    assert summary.n == 4
    assert summary.test_error_pct_mean == pytest.approx(87 / 4)
    assert summary.delta_vs_baseline == pytest.approx(-2)
    assert summary.p_value == pytest.approx(stats.ttest_rel([9, 10, 8], [10, 12, 11]).pvalue)


def test_the_p_values_and_intervals_are_scipys_with_seeds_missing_here_and_there():
    table = np.random.default_rng(0).normal(20, 3, (8, 12))
    errors = sweep(table)
    for value, seed in [(0, 3), (1, 3), (1, 5), (2, 0), (2, 1), (4, 11)]:
        del errors[value][seed]
    for value, summary in summarise(errors, 0).items():
        own = stats.ttest_1samp(list(errors[value].values()), 0).confidence_interval()
        assert (summary.ci95_low, summary.ci95_high) == pytest.approx((own.low, own.high))
        if value != 0:
            shared = sorted(errors[value].keys() & errors[0].keys())
            test = stats.ttest_rel([errors[value][seed] for seed in shared], [errors[0][seed] for seed in shared])
            between = test.confidence_interval()
            assert summary.p_value == pytest.approx(test.pvalue)
            assert (summary.delta_ci95_low, summary.delta_ci95_high) == pytest.approx((between.low, between.high))


# Verdicts


def test_a_clear_difference_helps_or_hurts_by_its_sign():
    errors = {"none": numbered(10, 11, 12), "good": numbered(5, 6.1, 6.9), "bad": numbered(15.1, 16, 16.9)}
    verdicts = {value: summary.verdict for value, summary in summarise(errors, "none").items()}
    assert verdicts == {"none": "baseline", "good": "helps", "bad": "hurts"}


def test_the_correction_decides_the_verdict():
    errors = {"none": numbered(10, 10, 10), "good": numbered(8, 8.5, 9)}
    assert summarise(errors, "none")["good"].verdict == "helps"  # p = 0.035
    among_many = summarise(errors | {k: numbered(10, 10.2, 9.7 + k / 100) for k in range(5)}, "none")["good"]
    assert among_many.p_value < 0.05 < among_many.p_holm
    assert among_many.verdict.startswith("no detectable")


def test_fewer_than_two_shared_seeds_are_too_few_and_are_not_counted_by_the_correction():
    errors = {"none": numbered(10, 11, 12), "k=1": {}, "k=3": {0: 9.0}, "k=5": {7: 9.0, 8: 9.5}}
    errors["k=7"] = numbered(9, 9.5, 12)
    summaries = summarise(errors, "none")
    assert [summaries[k].verdict for k in ("k=1", "k=3", "k=5")] == ["too few seeds"] * 3
    assert [summaries[k].n for k in errors] == [3, 0, 1, 2, 3]
    assert figures_of(summaries["k=1"]) == [0, *[None] * 9]
    assert figures_of(summaries["k=3"]) == [1, 9.0, None, None, None, -1.0, *[None] * 4]
    assert summaries["k=7"].p_holm == summaries["k=7"].p_value


def test_without_a_baseline_nothing_is_compared():
    summary = summarise({1: numbered(10, 12, 11), 3: numbered(9, 10, 8)}, baseline=None)[3]
    assert summary.verdict == "no baseline"
    assert summary.test_error_pct_mean == 9
    assert (summary.delta_vs_baseline, summary.p_value, summary.p_holm) == (None, None, None)


def test_a_sweep_without_a_finished_trial_is_summarised():
    assert summarise({}, None) == {}
    nothing = summarise({1: {}, 3: {}}, 1)
    assert [figures_of(row) for row in nothing.values()] == [[0, *[None] * 9]] * 2
    assert [row.decision for row in nothing.values()] == [Decision.BASELINE, Decision.TOO_FEW]
    assert [row.detectable for row in nothing.values()] == [None, None]


def test_errors_that_tie_in_every_seed_are_no_difference():
    errors = {"none": numbered(IMAGE, 2 * IMAGE, IMAGE), "k=1": numbered(IMAGE, 2 * IMAGE, IMAGE)}
    summary = summarise(errors, "none")["k=1"]
    assert summary.verdict == "no detectable difference (all pairs equal)"
    assert (summary.delta_vs_baseline, summary.p_value, summary.p_holm) == (0, 1, 1)
    assert (summary.delta_ci95_low, summary.delta_ci95_high) == (None, None)


@pytest.mark.parametrize(
    ("num_seeds", "verdict"), [(2, "too few seeds"), (5, "too few seeds"), (6, "helps"), (9, "helps")]
)
def test_equal_differences_are_left_to_the_sign_test(num_seeds, verdict):
    assert 8 * IMAGE - 7 * IMAGE != 2 * IMAGE - IMAGE  # in the last bits: that is no scatter
    worse = [(8 if seed % 2 else 2) * IMAGE for seed in range(num_seeds)]
    better = [(7 if seed % 2 else 1) * IMAGE for seed in range(num_seeds)]
    summary = summarise({"none": numbered(*worse), "k=5": numbered(*better)}, "none")["k=5"]
    assert summary.p_value == stats.binomtest(0, num_seeds).pvalue == 2.0 ** (1 - num_seeds)
    assert summary.verdict == verdict
    assert summary.delta_ci95_low is None


def test_seeds_that_agree_exactly_have_no_scatter_and_no_interval():
    summary = summarise({5: numbered(IMAGE, IMAGE, IMAGE)}, baseline=None)[5]
    assert (summary.n, summary.test_error_pct_std, summary.ci95_low, summary.ci95_high) == (3, 0, None, None)


def test_where_no_possible_difference_could_have_been_seen_the_seeds_are_too_few():
    errors = {"none": numbered(50, 50)} | {k: numbered(51, 49 - k / 10) for k in range(10)}
    assert {summary.verdict for summary in summarise(errors, "none").values()} == {"baseline", "too few seeds"}


@pytest.mark.parametrize("error", [math.nan, math.inf, -0.1, 100.1])
def test_an_error_that_is_none_is_refused(error):
    with pytest.raises(ValueError, match=r"'k=5' with seed 1 must be from 0 to 100, got "):
        summarise({"none": numbered(1, 2), "k=5": numbered(1, error)}, "none")


def test_a_baseline_that_was_not_swept_is_refused():
    with pytest.raises(ValueError, match="baseline must be one of the values"):
        summarise({1: numbered(1, 2)}, 3)


# What the figures promise, by simulation


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_interval_of_a_mean_covers_the_truth_95_times_in_100(num_seeds):
    num_sweeps = 8000
    tolerance = 4 * math.sqrt(0.95 * 0.05 / num_sweeps)
    assert tolerance < 0.02  # so that 93 to 97 % is held
    errors = np.random.default_rng(num_seeds).normal(40, 2, (num_sweeps, num_seeds))
    covered = [s.ci95_low <= 40 <= s.ci95_high for s in summarise(sweep(errors), None).values()]
    assert abs(np.mean(covered) - 0.95) <= tolerance


def test_the_interval_of_a_difference_covers_the_truth_95_times_in_100():
    num_sweeps, num_seeds = 2000, 3
    tolerance = 4 * math.sqrt(0.95 * 0.05 / num_sweeps)
    assert tolerance < 0.02
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(num_sweeps):
        of_seed = generator.normal(0, 5, num_seeds)  # what the seeds have in common, pairing takes away
        errors = np.array([[40.0], [41.5]]) + of_seed + generator.normal(0, 0.5, (2, num_seeds))
        summary = summarise(sweep(errors), 0)[1]
        covered += summary.delta_ci95_low <= 1.5 <= summary.delta_ci95_high
    assert abs(covered / num_sweeps - 0.95) <= tolerance


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("num_images", [None, 360])
def test_where_nothing_helps_a_sweep_says_so_in_95_of_100_sweeps(num_seeds, num_images):
    num_sweeps, num_values = 1500, 5
    generator = np.random.default_rng(num_seeds)
    false_alarms = 0
    for _ in range(num_sweeps):
        if num_images is None:
            errors = 40 + generator.normal(0, 1, num_seeds) + generator.normal(0, 0.5, (num_values + 1, num_seeds))
        else:  # errors come in whole images, and differences without scatter are common
            errors = 100 * generator.binomial(num_images, 0.01, (num_values + 1, num_seeds)) / num_images
        verdicts = {summary.verdict for summary in summarise(sweep(errors), 0).values()}
        false_alarms += not verdicts.isdisjoint({"helps", "hurts"})
    assert false_alarms / num_sweeps <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_sweeps)


@pytest.mark.parametrize("num_seeds", [3, 5, 10, 20])
@pytest.mark.parametrize("num_values", [1, 8])
def test_what_could_have_been_seen_is_seen_in_at_least_80_of_100_sweeps(num_seeds, num_values):
    """What a sweep promises, another one with that effect keeps or does not; on average it is kept."""
    num_sweeps, std = 4000, 0.5
    generator = np.random.default_rng([num_seeds, num_values])
    scatter = generator.normal(0, std, (num_sweeps, num_seeds)).std(axis=1, ddof=1)
    points = detectable_difference(np.full(num_sweeps, num_seeds), scatter, num_values)
    differences = points[:, None] + generator.normal(0, std, (num_sweeps, num_seeds))
    t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / math.sqrt(num_seeds))
    seen = np.mean(t > stats.t.isf(0.025 / num_values, num_seeds - 1))  # Holm's first and hardest step
    sampling = 4 * math.sqrt(0.88 * 0.12 / num_sweeps)
    assert 0.8 + sampling <= seen <= 0.9 + sampling


def test_a_sweep_calls_the_difference_that_it_says_it_could_have_seen():
    """As above, through the tables: of five values one has the effect that a first sweep named."""
    num_sweeps, std, num_seeds, num_values = 400, 0.5, 5, 5
    generator = np.random.default_rng(0)
    promised = seen = 0
    for _ in range(num_sweeps):
        errors = np.vstack([np.full((1, num_seeds), 40.0), 40 + generator.normal(0, std, (num_values, num_seeds))])
        first = summarise(sweep(errors), 0)[1]
        if first.detectable is None or first.decision is not Decision.UNDETECTED:
            continue
        again = 40 + generator.normal(0, std, (num_values, num_seeds))
        again[0] += seen_points(first.verdict)
        promised += 1
        seen += summarise(sweep(np.vstack([errors[:1], again])), 0)[1].decision is Decision.HURTS
    assert promised > 300
    assert seen / promised >= 0.8


@pytest.mark.parametrize("num_seeds", [3, 5, 30])
@pytest.mark.parametrize("num_compared", [1, 5, 200])
def test_the_detectable_difference_solves_the_noncentral_t(num_seeds, num_compared):
    points = float(detectable_difference(np.array([num_seeds]), np.array([0.7]), num_compared)[0])
    bound = 0.7 * math.sqrt((num_seeds - 1) / stats.chi2.ppf(0.2, num_seeds - 1))
    critical_t = stats.t.isf(0.025 / num_compared, num_seeds - 1)
    assert stats.nct.sf(critical_t, num_seeds - 1, points * math.sqrt(num_seeds) / bound) == pytest.approx(
        0.8, abs=1e-3
    )


def test_two_seeds_promise_nothing():
    assert np.isnan(detectable_difference(np.array([2, 1, 0]), np.array([0.7, 0.7, np.nan]), 1)).all()
    for errors in (numbered(9, 13), numbered(15, 17.1)):  # of the second p is 0.006
        row = summarise({"none": numbered(10, 12), "k=5": errors}, baseline="none")["k=5"]
        assert (row.decision, row.detectable, row.verdict) == (Decision.TOO_FEW, None, "too few seeds")
    assert row.p_holm < 0.01


# Whatever the errors

SEEDS = (0, 1, 9, 17, 25, 2**40, 2**62)
errors_in_images = st.dictionaries(
    st.integers(0, 5), st.dictionaries(st.sampled_from(SEEDS), st.integers(0, 360)), min_size=1, max_size=6
)


def in_pct(images):
    return {value: {seed: 100 * wrong / 360 for seed, wrong in by_seed.items()} for value, by_seed in images.items()}


@settings(deadline=None)
@given(errors_in_images)
def test_a_summary_is_consistent_whatever_the_errors(images):
    baseline = next(iter(images))
    summaries = summarise(in_pct(images), baseline)
    assert list(summaries) == list(images)
    baselines = [value for value, summary in summaries.items() if summary.verdict == "baseline"]
    assert baselines == ([baseline] if len(images) > 1 else [])
    for value, summary in summaries.items():
        figures = [*figures_of(summary), *([] if summary.detectable is None else [summary.detectable])]
        assert all(figure is None or (type(figure) in (int, float) and math.isfinite(figure)) for figure in figures)
        assert summary.n == len(images[value])
        if summary.p_value is not None:
            assert 0 <= summary.p_value <= summary.p_holm <= 1
        if summary.verdict in ("helps", "hurts"):
            assert summary.p_holm <= 0.05
            assert (summary.delta_vs_baseline < 0) == (summary.verdict == "helps")
        elif len(images) > 1 and summary.verdict != "baseline":
            assert re.fullmatch(r"too few seeds|no detectable difference \(.+\)", summary.verdict)


@settings(deadline=None)
@given(errors_in_images, st.randoms())
def test_the_order_of_values_and_seeds_changes_nothing(images, random):
    baseline = next(iter(images))
    shuffled = {
        value: dict(random.sample(list(images[value].items()), len(images[value])))
        for value in random.sample(list(images), len(images))
    }
    assert summarise(in_pct(shuffled), baseline) == summarise(in_pct(images), baseline)


@settings(deadline=None)
@given(errors_in_images)
def test_accuracy_in_place_of_error_turns_helps_into_hurts(images):
    baseline = next(iter(images))
    mirrored = {value: {seed: 360 - wrong for seed, wrong in by_seed.items()} for value, by_seed in images.items()}
    turned = {"helps": "hurts", "hurts": "helps"}
    there, back = summarise(in_pct(images), baseline), summarise(in_pct(mirrored), baseline)
    for value, summary in there.items():
        if summary.p_holm is not None:
            assert back[value].p_holm == pytest.approx(summary.p_holm, abs=1e-9)
            assert back[value].delta_vs_baseline == pytest.approx(-summary.delta_vs_baseline, abs=1e-9)
            if abs(summary.p_holm - 0.05) > 1e-6 and summary.verdict in turned:
                assert back[value].verdict == turned[summary.verdict]


@settings(deadline=None)
@given(errors_in_images, st.lists(st.floats(0, 40), min_size=7, max_size=7))
def test_what_a_seed_does_to_all_values_alike_cancels(images, of_seed):
    baseline = next(iter(images))
    halved = {value: {seed: wrong / 6 for seed, wrong in by_seed.items()} for value, by_seed in images.items()}
    moved = {
        value: {seed: error + of_seed[SEEDS.index(seed)] for seed, error in by_seed.items()}
        for value, by_seed in halved.items()
    }
    before, after = summarise(halved, baseline), summarise(moved, baseline)
    for value in images:
        if before[value].p_value is not None:
            assert after[value].p_value == pytest.approx(before[value].p_value, abs=1e-9)
            assert after[value].delta_vs_baseline == pytest.approx(before[value].delta_vs_baseline, abs=1e-9)


def test_skewness_is_fishers_and_strong_where_it_is_more_than_two_of_its_standard_errors():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(4, 9))
    samples[1, 5:] = np.nan
    samples[2, 2:] = np.nan
    samples[3] = 1.0
    found = skewness(samples)
    assert found[0] == pytest.approx(stats.skew(samples[0]))
    assert found[1] == pytest.approx(stats.skew(samples[1, :5]))
    assert np.isnan(found[2:]).all()
    normal = skewness(rng.standard_normal((20_000, 10)))
    assert np.mean([is_skewed(g1, 10) for g1 in normal]) == pytest.approx(0.05, abs=0.02)
    skewed = skewness(rng.exponential(size=(2_000, 20)))
    assert np.mean([is_skewed(g1, 20) for g1 in skewed]) > 0.5
    assert not is_skewed(None, 10)


def test_what_is_secondary_is_paired_over_the_seeds_that_count():
    errors = {"none": numbered(10, 12, 11, 13), "a": numbered(9, 10, 10, 11)}
    losses = {"none": numbered(1.0, 2.0, 3.0), "a": numbered(0.5, 1.0, 2.5)}  # of one seed there is none
    found = judging.Evidence(errors, {"a": "none"}, secondary={"test_loss": losses})
    row = verdicts.summarise(found)["a"]
    interval = stats.ttest_1samp([-0.5, -1.0, -0.5], 0).confidence_interval()
    assert row.delta_test_loss == pytest.approx(-2 / 3)
    assert (row.delta_test_loss_ci95_low, row.delta_test_loss_ci95_high) == pytest.approx(tuple(interval))
    assert row.delta_brier is None
    assert row.skewness == pytest.approx(stats.skew([-1, -2, -1, -2]))
    assert verdicts.summarise(found)["none"].delta_test_loss is None
