"""The machine's roofline, and which share of it a training step reaches.

Two rates bound every step: how fast memory is copied, and how fast matrices are multiplied in the run's precision.
Both are measured on this machine with torch, not taken from a data sheet.
"""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tdbench.profiling.memory import available_bytes, last_cache_bytes
from tdbench.profiling.timing import FEWEST_TURNS, Call, median_interval, median_ms
from tdbench.profiling.trace import Work

MATRIX_SIDE = {"cuda": 8192, "mps": 2048}
CPU_MATRIX_SIDE = 1024
STARTING_US = 50.0  # an operator this short is mostly Python, dispatch and launch
NEAR_A_LIMIT = 0.5  # the share of a rate from which on that rate limits the step


@dataclass(frozen=True)
class Machine:
    """The two measured rates.

    Attributes:
        copy_gb_per_s: Bytes read and written by a copy larger than the last-level cache.
        matmul_gflop_per_s: Of a square matrix product, with additions and multiplications counted, in the run's
            precision; in fp32 where that is faster, as on a CPU without half-precision arithmetic. On CUDA fp32 means
            TF32 where convolutions use it.
        copy_interval, matmul_interval: The 95 % confidence intervals of the two, which are medians; None: not known.
    """

    copy_gb_per_s: float
    matmul_gflop_per_s: float
    copy_interval: tuple[float, float] | None = None
    matmul_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Roofline:
    """A training step relative to the machine's rates."""

    machine: Machine
    work: Work
    step_ms: float
    compiled: bool = False
    step_interval: tuple[float, float] | None = None  # of the median step, in ms

    @property
    def matmul_share(self) -> float:
        """The share of the matrix rate that the step reaches."""
        return self.work.gflop / self.step_ms * 1e3 / self.machine.matmul_gflop_per_s

    @property
    def copy_share(self) -> float:
        """The share of the copy bandwidth that the step reaches; above 1 where a cache or a compiler helps."""
        return self.work.gb / self.step_ms * 1e3 / self.machine.copy_gb_per_s

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each share, at least: from those of the step's time and of the rate."""
        slow_ms, fast_ms = (self.step_interval or (self.step_ms, self.step_ms))[::-1]
        found = {}
        for name, share, rate, interval in (
            ("matmul", self.matmul_share, self.machine.matmul_gflop_per_s, self.machine.matmul_interval),
            ("copy", self.copy_share, self.machine.copy_gb_per_s, self.machine.copy_interval),
        ):
            low, high = interval or (rate, rate)
            found[name] = share * self.step_ms / slow_ms * rate / high, share * self.step_ms / fast_ms * rate / low
        return found

    def sentence(self) -> str:
        """Say what limits the step, where the intervals of the shares leave no doubt."""
        intervals = self.intervals()
        shares = " and ".join(
            f"{share:.0%} ({low:.0%} to {high:.0%}) of the {rate}"
            for rate, share, (low, high) in (
                ("matrix rate", self.matmul_share, intervals["matmul"]),
                ("copy bandwidth", self.copy_share, intervals["copy"]),
            )
        )
        limits = [name for name, (low, _) in intervals.items() if low >= NEAR_A_LIMIT]
        if limits:
            words = {"matmul": "arithmetic", "copy": "memory bandwidth"}
            named = " and ".join(words[name] for name in limits)
            return f"{named.capitalize()} {'limits' if len(limits) == 1 else 'limit'} the step: it reaches {shares}."
        if any(high >= NEAR_A_LIMIT for _, high in intervals.values()):
            return (
                f"What limits the step cannot be told from this: it reaches {shares}, and a rate is its limit from "
                f"{NEAR_A_LIMIT:.0%} on."
            )
        neither = f"Neither arithmetic nor memory limits the step, which reaches {shares}"
        if self.compiled:  # its operators were counted uncompiled
            return f"{neither}."
        each_us = 1e3 * self.step_ms / max(1, self.work.num_operators)
        why = ", little more than it costs to start one" if each_us < STARTING_US else ""
        return f"{neither}: its {self.work.num_operators} operators take {each_us:,.0f} µs each{why}."

    def figures(self) -> dict[str, Any]:
        """Return the rates, the work, the shares and the sentence."""
        return {
            "copy_gb_per_s": round(self.machine.copy_gb_per_s, 1),
            "matmul_gflop_per_s": round(self.machine.matmul_gflop_per_s, 1),
            "step_ms": round(self.step_ms, 4),
            "step_gflop": round(self.work.gflop, 4),
            "step_gb": round(self.work.gb, 4),
            "step_operators": self.work.num_operators,
            "matmul_share_pct": round(100 * self.matmul_share, 1),
            "copy_share_pct": round(100 * self.copy_share, 1),
            "limit": self.sentence(),
            **{f"{name}_share_ci95_pct": [round(100 * x, 1) for x in both] for name, both in self.intervals().items()},
        }


def measure_machine(device: torch.device, dtype: torch.dtype, seconds: float) -> Machine:
    """Measure the two rates, each product and the copy for about `seconds`."""
    with torch.no_grad(), _arithmetic_of_convolutions():
        matmul = max(_matmul_gflop_per_s(device, one, seconds) for one in {dtype, torch.float32})
        copy = _copy_gb_per_s(device, seconds)
        return Machine(copy[0], matmul[0], copy[1], matmul[1])


@contextmanager
def _arithmetic_of_convolutions() -> Iterator[None]:
    """Multiply matrices on CUDA in TF32 where convolutions do."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def _copy_gb_per_s(device: torch.device, seconds: float) -> tuple[float, tuple[float, float] | None]:
    num_bytes = 4 * last_cache_bytes(device)
    free = available_bytes(device)
    if free is not None:
        num_bytes = min(num_bytes, free // 8)
    source = torch.ones(num_bytes // 4, device=device)
    target = source.clone()
    return _rate((source.nbytes + target.nbytes) / 1e6, lambda: target.copy_(source), device, seconds)


def _matmul_gflop_per_s(
    device: torch.device, dtype: torch.dtype, seconds: float
) -> tuple[float, tuple[float, float] | None]:
    side = MATRIX_SIDE.get(device.type, CPU_MATRIX_SIDE)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)  # warm-up
    return _rate(2 * side**3 / 1e6, lambda: torch.mm(left, right), device, seconds)


def _rate(work: float, call: Call, device: torch.device, seconds: float) -> tuple[float, tuple[float, float] | None]:
    """Return work per millisecond, the median of a few turns, and its 95 % interval."""
    rates = [work / median_ms(call, device, seconds / FEWEST_TURNS) for _ in range(FEWEST_TURNS)]
    return statistics.median(rates), median_interval(rates)
