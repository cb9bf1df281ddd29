"""Calls take turns, a drifting machine cancels out, and an interval of the median holds what it promises."""

import math
import time

import pytest
import torch

from tdbench.profiling import timing
from tdbench.profiling.timing import (
    FEWEST_TURNS,
    MeasurementFailed,
    median_interval,
    median_ms,
    paired_ratio,
    spread,
    take_turns,
)

CPU = torch.device("cpu")


@pytest.fixture
def called(monkeypatch):
    """Let a call return its own time, and note the order of the calls."""
    order = []

    def median_ms(call, device, seconds, busy):
        took_ms = call()
        order.append(call.__name__)
        return took_ms

    monkeypatch.setattr(timing, "median_ms", median_ms)
    return order


def named(name, call):
    call.__name__ = name
    return call


def test_calls_take_turns_and_every_other_turn_goes_backwards(called):
    take_turns({name: named(name, lambda: 1.0) for name in "abc"}, CPU, 1.0, turns=3)
    assert "".join(called) in ("abccbaabccba", "cbaabccbaabc")


def test_the_first_turn_warms_up_and_does_not_count(called):
    times = iter([100.0, 1.0, 2.0])
    assert take_turns({"a": lambda: next(times)}, CPU, 1.0, turns=2) == {"a": [1.0, 2.0]}


@pytest.mark.parametrize("fails_in_turn", [0, 2])
def test_a_call_that_runs_out_of_memory_is_left_out_and_the_others_go_on(called, fails_in_turn):
    turn = iter(range(10))

    def greedy():
        if next(turn) == fails_in_turn:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    assert take_turns({"greedy": greedy, "modest": lambda: 2.0}, CPU, 1.0, turns=4) == {"modest": [2.0] * 4}


def test_another_error_is_not_taken_for_the_end_of_memory():
    def broken():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(MeasurementFailed, match=r"while measuring broken: RuntimeError: .*cannot be multiplied"):
        take_turns({"broken": broken}, CPU, 0.01)


def test_calls_that_take_longer_than_there_is_time_get_six_turns(called, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    assert len(take_turns({"slow": lambda: 1.0}, CPU, seconds=0.1, turns=50)["slow"]) == FEWEST_TURNS


def test_the_report_rises_from_0_and_names_what_is_measured(called):
    told = []
    take_turns({"a": lambda: 1.0, "b": lambda: 1.0}, CPU, 1.0, turns=3, report=lambda *told_now: told.append(told_now))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], len(shares), {what for _, what in told}) == (0.0, 8, {"a", "b"})
    assert shares[-1] < 1


def test_the_time_of_a_call_is_at_least_what_it_sleeps():
    assert 4.9 <= median_ms(lambda: time.sleep(0.005), CPU, seconds=0.02) < 500


def test_a_machine_that_drifts_does_not_change_a_paired_ratio():
    drift = [1.0, 5.0, 0.3, 2.0]
    assert paired_ratio([2 * d for d in drift], drift) == 2.0


def test_the_spread_is_the_quintiles_and_the_median():
    assert spread([float(value) for value in range(1, 10)]) == (2.0, 5.0, 8.0)


def test_one_turn_is_its_own_spread_and_fewer_than_six_have_no_interval():
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_a_call_that_runs_out_of_memory_is_let_go():
    def greedy():
        raise torch.OutOfMemoryError("CUDA out of memory")

    calls = {"greedy": greedy, "modest": lambda: None}
    assert list(take_turns(calls, torch.device("cpu"), seconds=0.01, turns=2)) == list(calls) == ["modest"]


@pytest.mark.parametrize("n", [6, 9, 11, 15, 40])
def test_the_interval_of_the_median_covers_it_in_at_least_95_of_100_cases(n):
    low, high = median_interval([float(value) for value in range(n)])
    assert low == n - 1 - high
    # The median lies outside where at most `low` values lie on one side of it, each with the chance of a coin.
    outside = 2 * sum(math.comb(n, k) for k in range(int(low) + 1)) / 2**n
    one_rank_more = 2 * sum(math.comb(n, k) for k in range(int(low) + 2)) / 2**n
    assert outside <= 0.05 < one_rank_more


@pytest.mark.gpu
def test_events_on_a_gpu_time_the_work_and_not_its_launch():
    device = torch.device("cuda")
    small, large = (torch.randn(side, side, device=device) for side in (256, 4096))
    assert median_ms(lambda: large @ large, device, 0.1) > 3 * median_ms(lambda: small @ small, device, 0.1)
