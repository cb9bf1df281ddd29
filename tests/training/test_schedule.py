"""The learning rate rises linearly, then follows its schedule to the end of the run, however long that is."""

import pytest
import torch

from tdbench.config import ScheduleConfig
from tdbench.errors import ConfigError
from tdbench.training.schedule import Schedule


def rates(num_steps=100, steps_per_epoch=10, peak=0.1, **schedule):
    made = Schedule(ScheduleConfig(**schedule), num_steps, steps_per_epoch)
    return [made.lr_at(step, peak) for step in range(num_steps)]


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


OF_TORCH = {
    "ExponentialLR": {"gamma": 0.9},
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "LinearLR": {"start_factor": 0.5, "total_iters": 6},
    "PolynomialLR": {"total_iters": 9, "power": 2.0},
    "CosineAnnealingLR": {"T_max": 10, "eta_min": 0.01},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
}


@pytest.mark.parametrize(("per", "steps_each"), [("epoch", 5), ("step", 1)])
@pytest.mark.parametrize("name", OF_TORCH)
def test_a_schedule_of_torch_s_is_what_a_loop_with_it_gives(name, per, steps_each):
    num_stages = 12
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedule, expected = getattr(torch.optim.lr_scheduler, name)(optimizer, **OF_TORCH[name]), []
    for _ in range(num_stages):
        expected += [optimizer.param_groups[0]["lr"]] * steps_each
        optimizer.step()
        schedule.step() if len(expected) < num_stages * steps_each else None
    values = rates(num_stages * steps_each, 5, name=name, per=per, warmup_epochs=0, **OF_TORCH[name])
    assert values == expected
    assert len(set(values)) > 2


def test_a_schedule_of_torch_s_begins_after_the_warm_up_at_the_peak():
    values = rates(40, 10, name="exponentiallr", gamma=0.5, warmup_epochs=1)
    assert values[:10] == pytest.approx([0.1 * (i + 1) / 10 for i in range(10)])
    assert [values[i] for i in (10, 19, 20, 30, 39)] == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.025])


def test_knobs_that_torch_refuses_are_told_in_one_message():
    with pytest.raises(ConfigError, match=r"schedule\.name CosineAnnealingWarmRestarts refuses its knobs"):
        rates(40, 10, name="CosineAnnealingWarmRestarts", T_0=-1)


@pytest.mark.parametrize("gamma", [-1.5, 1e200])
def test_rates_below_0_or_beyond_all_numbers_are_refused(gamma):
    with pytest.raises(ConfigError, match=r"ExponentialLR must give learning rates of at least 0, got (-|inf)"):
        rates(40, 10, name="ExponentialLR", gamma=gamma, per="step")
