"""The clock reports the median step, warm-up left out."""

import torch

from tdbench.training import clock as clock_module
from tdbench.training.clock import WARMUP_STEPS, StepClock


def clock_with(monkeypatch, durations):
    times = iter([0.0, *(sum(durations[: i + 1]) for i in range(len(durations)))])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(times))
    clock = StepClock(torch.device("cpu"))
    clock.start()
    for _ in durations:
        clock.tick()
    return clock


def test_warm_up_steps_do_not_count(monkeypatch):
    clock = clock_with(monkeypatch, [9.0] * WARMUP_STEPS + [1.0, 2.0, 3.0])
    clock.collect()
    assert clock.median_s() == 2.0
    assert len(clock.steps_s) == 3


def test_a_run_of_warm_up_only_still_has_a_figure(monkeypatch):
    clock = clock_with(monkeypatch, [4.0, 2.0])
    clock.collect()
    assert clock.median_s() == 3.0


def test_collecting_twice_counts_each_step_once(monkeypatch):
    clock = clock_with(monkeypatch, [1.0] * (WARMUP_STEPS + 3))
    clock.collect()
    clock.collect()
    assert len(clock.steps_s) == 3


def test_before_the_first_step_there_is_no_figure():
    assert StepClock(torch.device("cpu")).median_s() is None


def test_an_epoch_has_its_own_median(monkeypatch):
    clock = clock_with(monkeypatch, [1.0] * (WARMUP_STEPS + 4))
    clock.collect()
    times = iter([0.0, 3.0, 6.0])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(times))
    clock.start()
    clock.tick()
    clock.tick()
    clock.collect()
    assert (clock.epoch_median_s(), clock.median_s(), clock.recent_median_s()) == (3.0, 1.0, 1.0)
