"""Steps with and without a method: the overhead whatever the machine does, memory that ends, the largest batch."""

import random

import pytest
import torch

from tdbench.profiling import step as step_module
from tdbench.profiling import timing
from tdbench.profiling.step import STEP_COLUMNS, batch_sizes, profile_steps
from tdbench.profiling.timing import MeasurementFailed

CPU = torch.device("cpu")


class Step:
    """A step that returns how long it takes, on a machine that gets slower and slower, with some noise."""

    num_calls = 0
    noise = random.Random(0)

    def __init__(self, work=1.0, spread=0.0):
        self.work, self.spread = work, spread

    def __call__(self):
        Step.num_calls += 1
        return 10 * self.work * (1 + Step.num_calls / 1000) * (1 + self.spread * (self.noise.random() - 0.5))

    def eager(self):
        return self()

    def held_bytes(self):
        return 3 * 2**20


class GreedyStep(Step):
    def __call__(self):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture(autouse=True)
def _time_is_what_a_step_returns(monkeypatch):
    monkeypatch.setattr(Step, "num_calls", 0)
    for module in (timing, step_module):
        monkeypatch.setattr(module, "median_ms", lambda call, device, seconds, busy: call())


def profile(methods, baseline=Step, batch_size=64):
    costs = profile_steps(baseline, methods, batch_size, CPU, seconds=1.0)
    return {cost.method: cost for cost in costs}


def test_the_baseline_is_measured_like_a_method_and_costs_nothing_within_its_interval():
    none = profile({"none": lambda: Step(spread=0.1)}, lambda: Step(spread=0.1))["none"]
    low, high = none.overhead_ci95
    assert low <= 0 <= high
    assert low < none.overhead_pct < high  # two runs with noise are not one run twice


def test_the_baseline_is_there_unasked_and_first():
    assert list(profile({"dropout": Step})) == ["none", "dropout"]


def test_the_overhead_is_what_a_step_takes_longer_while_the_machine_drifts():
    cost = profile({"slow": lambda: Step(1.25)})["slow"]
    assert cost.overhead_pct == pytest.approx(25, abs=1)
    assert cost.overhead_ci95[0] <= cost.overhead_pct <= cost.overhead_ci95[1]


def test_images_per_second_are_those_of_the_median_step():
    figures = profile({"slow": lambda: Step(2)}, batch_size=50)["slow"].figures()
    assert set(figures) <= set(STEP_COLUMNS)
    assert figures["train_img_per_s"] == pytest.approx(1e3 * 50 / figures["step_ms"], rel=1e-3)


def test_peak_memory_is_what_is_held_and_what_a_step_takes_beyond_it():
    class Allocating(Step):
        def __call__(self):
            torch.ones(2**18)
            return 1.0

    assert profile({"allocating": Allocating})["allocating"].peak_mem_mib == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("greedy", [GreedyStep, lambda: torch.empty(2**60)])
def test_a_method_that_runs_out_of_memory_is_a_row_that_says_so(greedy):
    costs = profile({"greedy": greedy, "dropout": Step})
    assert costs["greedy"].figures() == {"method": "greedy", "batch_size": 64, "n": 0, "status": "OOM"}
    assert costs["dropout"].status == "ok"


def test_without_a_baseline_there_is_a_time_and_no_overhead():
    num_built = []

    def baseline():
        num_built.append(1)
        return GreedyStep() if len(num_built) == 1 else Step()

    figures = profile({"dropout": Step}, baseline)["dropout"].figures()
    assert figures["step_ms"] > 0
    assert "overhead_pct" not in figures


def tried(first, limit):
    def build(batch_size):
        return Step() if batch_size <= limit else GreedyStep()

    return [(cost.batch_size, cost.status) for cost in batch_sizes("targetdrop", build, first, CPU, 0.1)]


@pytest.mark.slow
def test_the_batch_doubles_until_memory_ends():
    assert tried(16, limit=100) == [(16, "ok"), (32, "ok"), (64, "ok"), (128, "OOM")]


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    assert tried(500, limit=100) == [(500, "OOM"), (250, "OOM"), (125, "OOM"), (62, "ok")]


@pytest.mark.slow
def test_where_not_even_one_image_fits_the_search_ends_at_one():
    assert tried(4, limit=0) == [(4, "OOM"), (2, "OOM"), (1, "OOM")]


def test_another_error_ends_the_search():
    def build(batch_size):
        raise ValueError("no such thing")

    with pytest.raises(MeasurementFailed, match=r"while measuring targetdrop: ValueError: no such thing"):
        list(batch_sizes("targetdrop", build, 16, CPU, 0.1))
