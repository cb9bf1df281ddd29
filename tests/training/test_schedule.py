"""The learning rate rises linearly, then follows its schedule to the end of the run, however long that is."""

import pytest

from tdbench.config import ScheduleConfig
from tdbench.training.schedule import lr_at


def rates(num_steps=100, steps_per_epoch=10, peak=0.1, **schedule):
    config = ScheduleConfig(**schedule)
    return [lr_at(step, num_steps, steps_per_epoch, peak, config) for step in range(num_steps)]


def test_the_warm_up_rises_linearly_to_the_peak():
    assert rates(warmup_epochs=2, name="constant")[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])


def test_cosine_falls_from_the_peak_to_nearly_nothing():
    values = rates(warmup_epochs=0)
    assert values[0] == 0.1
    assert values[50] == pytest.approx(0.05)
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 1e-4


def test_milestones_are_shares_of_the_run():
    values = rates(num_steps=200, warmup_epochs=0, name="milestones", milestones=(0.3, 0.6, 0.8), factor=0.2)
    for step, expected in [(0, 0.1), (59, 0.1), (60, 0.02), (119, 0.02), (120, 0.004), (160, 0.0008), (199, 0.0008)]:
        assert values[step] == pytest.approx(expected)


def test_a_run_shorter_than_its_warm_up_still_reaches_the_peak():
    values = rates(num_steps=4, warmup_epochs=5)
    assert max(values) == pytest.approx(0.1)


def test_a_single_step_has_a_rate():
    assert rates(num_steps=1) == [0.1]
