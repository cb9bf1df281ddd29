"""What the machine can do, and the sentence about what limits a step."""

import pytest
import torch

from tdbench.profiling import machine
from tdbench.profiling.machine import Machine, Roofline, measure_machine
from tdbench.profiling.trace import Work

MACHINE = Machine(copy_gb_per_s=10.0, matmul_gflop_per_s=100.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_rates_are_measured(monkeypatch, dtype):
    monkeypatch.setattr(machine, "last_cache_bytes", lambda device: 2**20)
    monkeypatch.setattr(machine, "CPU_MATRIX_SIDE", 64)
    rates = measure_machine(torch.device("cpu"), dtype, seconds=0.01)
    assert 0.01 < rates.copy_gb_per_s < 10_000
    assert 0.01 < rates.matmul_gflop_per_s < 1_000_000


def test_the_rates_are_bytes_and_operations_over_the_time(monkeypatch):
    monkeypatch.setattr(machine, "last_cache_bytes", lambda device: 2**20)
    monkeypatch.setattr(machine, "CPU_MATRIX_SIDE", 64)
    monkeypatch.setattr(machine, "median_ms", lambda call, device, seconds: 2.0)
    rates = measure_machine(torch.device("cpu"), torch.float32, seconds=0.01)
    copy, matmul = 2 * 4 * 2**20 / 2e6, 2 * 64**3 / 2e6
    assert rates == Machine(copy, matmul, copy_interval=(copy, copy), matmul_interval=(matmul, matmul))


def test_matrices_are_multiplied_in_the_arithmetic_of_convolutions(monkeypatch):
    monkeypatch.setattr(machine, "last_cache_bytes", lambda device: 2**20)
    monkeypatch.setattr(machine, "CPU_MATRIX_SIDE", 8)
    seen = []
    monkeypatch.setattr(
        machine, "median_ms", lambda call, device, seconds: seen.append(torch.backends.cuda.matmul.allow_tf32) or 1.0
    )
    before = torch.backends.cuda.matmul.allow_tf32
    measure_machine(torch.device("cpu"), torch.float32, seconds=0.01)
    assert set(seen) == {torch.backends.cudnn.allow_tf32}
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_of_a_compiled_step_no_time_per_uncompiled_operator_is_given():
    sentence = Roofline(MACHINE, Work(0.5, 0.1, 5000), step_ms=50.0, compiled=True).sentence()
    assert sentence.endswith("20% (20% to 20%) of the copy bandwidth.")


def test_the_shares_are_the_work_over_the_time_over_the_rate():
    roofline = Roofline(MACHINE, Work(gflop=2.0, gb=0.1, num_operators=50), step_ms=50.0)
    assert roofline.matmul_share == pytest.approx(0.4)
    assert roofline.copy_share == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("work", "limit"),
    [
        (Work(4.0, 0.1, 50), "Arithmetic limits the step: it reaches 80% (80% to 80%) of the matrix rate and 20% (20%"),
        (
            Work(2.0, 0.4, 50),
            "Memory bandwidth limits the step: it reaches 40% (40% to 40%) of the matrix rate and 80%",
        ),
        (Work(0.5, 0.1, 50), "its 50 operators take 1,000 µs each."),
        (Work(0.5, 0.1, 5000), "its 5000 operators take 10 µs each, little more than it costs to start one"),
    ],
)
def test_one_sentence_says_what_limits_the_step(work, limit):
    assert limit in Roofline(MACHINE, work, step_ms=50.0).figures()["limit"]


def test_a_share_whose_interval_holds_the_limit_leaves_it_open():
    """By hand: 60 % at 50 ms is 50 to 75 % at 40 to 60 ms, and 40 to 94 % with a rate between 80 and 125."""
    work, times = Work(3.0, 0.1, 50), (40.0, 60.0)
    assert "Arithmetic limits" in Roofline(MACHINE, work, 50.0, step_interval=(45.0, 55.0)).sentence()
    both = Machine(10.0 / 6, 100.0, copy_interval=(10 / 6, 10 / 6), matmul_interval=(100.0, 100.0))
    assert "Arithmetic and memory bandwidth limit the step" in Roofline(both, Work(3.0, 0.05, 50), 50.0).sentence()
    wide = Machine(1.0, 100.0, copy_interval=(0.8, 1.3), matmul_interval=(90.0, 110.0))  # 90 %, and 35 to 62 %
    assert Roofline(wide, Work(4.5, 0.0225, 50), 50.0).sentence().startswith("Arithmetic limits the step")
    unsure = Machine(10.0, 100.0, copy_interval=(10.0, 10.0), matmul_interval=(80.0, 125.0))
    roofline = Roofline(unsure, work, 50.0, step_interval=times)
    assert roofline.intervals()["matmul"] == pytest.approx((0.6 * 50 / 60 / 1.25, 0.6 * 50 / 40 / 0.8))
    assert roofline.sentence().startswith("What limits the step cannot be told from this: it reaches 60% (40% to 94%)")
    assert roofline.figures()["matmul_share_ci95_pct"] == [40.0, 93.8]
