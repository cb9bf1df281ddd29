"""The clock reports the median step and the share of waiting for data, warm-up left out."""

import time

import pytest
import torch

from tdbench.training import clock as clock_module
from tdbench.training.clock import WARMUP_STEPS, StepClock


class FakeTime:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(clock_module.time, "perf_counter", lambda: self.now)

    def run(self, clock, durations, waits=None):
        """Begin an epoch of steps that take so many seconds, of which so many pass until the batch is ready."""
        clock.start()
        for duration, wait in zip(durations, waits or [0.0] * len(durations), strict=True):
            self.now += wait
            clock.batch_ready()
            self.now += duration - wait
            clock.tick()


@pytest.fixture
def clock():
    return StepClock(torch.device("cpu"))


@pytest.fixture
def fake_time(monkeypatch):
    return FakeTime(monkeypatch)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_on_a_gpu_its_events_tell_the_time_and_nothing_is_kept_that_nobody_asks_for(device, monkeypatch):
    class Event:
        now = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.now += 1
            self.at = Event.now

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(getattr(torch, device), "Event", Event)
    clock = StepClock(torch.device(device))
    for is_wanted in (False, True):
        clock.start()
        for _ in range(WARMUP_STEPS + 3):
            clock.batch_ready()
            clock.tick()
        if not is_wanted:
            clock.forget()
        clock.collect()
    assert clock.steps_s == [2.0] * 3
    assert clock.waits_s == [1.0] * 3


def test_warm_up_steps_do_not_count(clock, fake_time):
    fake_time.run(clock, [9.0] * WARMUP_STEPS + [1.0, 2.0, 3.0])
    clock.collect()
    assert clock.median_s() == 2.0
    assert len(clock.steps_s) == len(clock.waits_s) == 3


def test_a_run_of_warm_up_only_still_has_figures(clock, fake_time):
    fake_time.run(clock, [4.0, 2.0], [2.0, 1.0])
    clock.collect()
    assert (clock.median_s(), clock.data_wait_pct()) == (3.0, 50.0)


def test_collecting_twice_counts_each_step_once(clock, fake_time):
    fake_time.run(clock, [1.0] * (WARMUP_STEPS + 3))
    clock.collect()
    clock.collect()
    assert len(clock.steps_s) == 3


def test_before_the_first_step_there_is_no_figure(clock):
    assert (clock.median_s(), clock.data_wait_pct()) == (None, None)


def test_an_epoch_has_its_own_median(clock, fake_time):
    fake_time.run(clock, [1.0] * (WARMUP_STEPS + 4))
    clock.collect()
    fake_time.run(clock, [3.0, 3.0])
    clock.collect()
    assert (clock.epoch_median_s(), clock.median_s(), clock.recent_median_s()) == (3.0, 1.0, 1.0)


def test_the_share_of_waiting_is_that_of_the_time_until_the_batches_were_ready(clock, fake_time):
    fake_time.run(clock, [9.0] * WARMUP_STEPS + [1.0, 3.0], [9.0] * WARMUP_STEPS + [0.75, 0.25])
    fake_time.now += 100  # an evaluation is neither a step nor a wait for its batch
    fake_time.run(clock, [4.0], [1.0])
    clock.collect()
    assert clock.data_wait_pct() == pytest.approx(100 * 2 / 8)


@pytest.mark.gpu
def test_a_gpu_that_waits_for_its_host_is_seen_to_wait_without_a_sync_in_the_steps():
    device = torch.device("cuda")
    x = torch.rand(4096, 4096, device=device)
    shares = {}
    for wait_s in (0.0, 0.05):
        clock = StepClock(device)
        clock.start()
        with torch.cuda.device(device):
            for _ in range(WARMUP_STEPS + 10):
                time.sleep(wait_s)
                clock.batch_ready()
                for _ in range(4):
                    x @ x  # some milliseconds in all, launched in microseconds
                clock.tick()
        torch.cuda.synchronize(device)
        clock.collect()
        shares[wait_s] = clock.data_wait_pct()
    assert shares[0.0] < 20 < 50 < shares[0.05] < 100
