"""The interval for new images, by hand and by simulation, and the verdict that holds on the tested images only."""

import numpy as np
import pytest
from scipy import stats

from tdbench.store.rows import Decision
from tdbench.sweep.inference import estimate, interval_for_new_images
from tdbench.sweep.judging import Evidence
from tdbench.sweep.verdicts import summarise


def test_the_interval_is_that_of_a_hand_calculation():
    """Two seeds, three images: sums of squares 1.5 (seeds), 4 (images), 0 (rest)."""
    outcomes = np.array([[0.0, 1, 2], [1, 2, 3]])
    low, high = interval_for_new_images(outcomes)
    of_seeds, of_images = 1.5 / 1, 4 / 2
    variance = (of_seeds + of_images) / 6
    df = (6 * variance) ** 2 / (of_seeds**2 / 1 + of_images**2 / 2)
    half = stats.t.ppf(0.975, df) * variance**0.5
    assert (low, high) == pytest.approx((1.5 - half, 1.5 + half))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (3, 4)])
def test_there_is_none_without_two_of_each_and_scatter(shape):
    assert np.isnan(interval_for_new_images(np.ones(shape))).all()


def test_it_covers_the_difference_for_new_images_where_that_over_seeds_does_not():
    generator, covered, over_seeds, num_sweeps = np.random.default_rng(0), 0, 0, 400
    for _ in range(num_sweeps):
        hardness, gain = generator.normal(0, 1.5, 360), generator.normal(0, 1.0, 360)  # the gain is another per image
        seeds = generator.normal(0, 0.2, (2, 10, 1))
        ours, theirs = (
            hardness + sign * gain / 2 + seed + generator.logistic(0, 0.6, (10, 360)) > 2
            for sign, seed in zip((1, -1), seeds, strict=True)
        )
        outcomes = 100 * (ours.astype(float) - theirs)
        low, high = interval_for_new_images(outcomes)
        covered += low <= 0 <= high
        one = estimate(outcomes.mean(axis=1)[None])
        over_seeds += one.low[0] <= 0 <= one.high[0]
    assert covered / num_sweeps >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / num_sweeps)
    assert over_seeds < covered


def test_a_verdict_that_new_images_might_not_bear_out_says_on_which_it_holds():
    generator, image = np.random.default_rng(0), np.arange(50)
    outcomes = {"none": {}, "k": {}}
    for seed in range(6):  # the value misses two images of fifty more, with every seed, and in some a third
        base = (generator.random(50) < 0.1) & (image > 3)
        outcomes["none"][seed], outcomes["k"][seed] = base, base | (image < 2) | ((image == 2) & bool(seed % 2))
    errors = {name: {seed: 100 * wrong.mean() for seed, wrong in of.items()} for name, of in outcomes.items()}
    row = summarise(Evidence(errors, {"k": "none"}, outcomes=outcomes))["k"]
    assert row.decision is Decision.HURTS
    assert row.num_better == 0
    assert row.delta_ci95_low_images <= 0 < row.delta_ci95_low
    assert row.verdict == "hurts on these 50 images"
    del outcomes["k"][5]
    row = summarise(Evidence(errors, {"k": "none"}, outcomes=outcomes))["k"]
    assert (row.verdict, row.delta_ci95_low_images) == ("hurts", None)


def test_a_metric_of_which_more_is_better_turns_the_verdict_round():
    errors = {"none": dict.fromkeys(range(4), 5.0), "k": dict.fromkeys(range(4), 5.0)}
    speeds = {"none": dict(enumerate([100.0, 101, 102, 99])), "k": dict(enumerate([150.0, 149, 151, 152]))}
    row = summarise(Evidence(errors, {"k": "none"}, metric="train_img_per_s", figures=speeds, more_is_better=True))["k"]
    assert (row.decision, row.num_better, row.metric) == (Decision.HELPS, 4, "train_img_per_s")
    losses = {name: {seed: 1 / speed for seed, speed in of.items()} for name, of in speeds.items()}
    row = summarise(Evidence(errors, {"none": "k"}, metric="test_loss", figures=losses, in_points=False))["none"]
    assert (row.decision, row.num_better) == (Decision.HURTS, 0)
