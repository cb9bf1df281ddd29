"""The machine's roofline, and which share of it a training step reaches.

Two rates bound every step: how fast memory is copied, and how fast matrices are multiplied in the run's precision.
Both are measured on this machine with torch, not taken from a data sheet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tdbench.profiling.memory import available_bytes, last_cache_bytes
from tdbench.profiling.timing import median_ms
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
    """

    copy_gb_per_s: float
    matmul_gflop_per_s: float


@dataclass(frozen=True)
class Roofline:
    """A training step relative to the machine's rates."""

    machine: Machine
    work: Work
    step_ms: float
    compiled: bool = False

    @property
    def matmul_share(self) -> float:
        """The share of the matrix rate that the step reaches."""
        return self.work.gflop / self.step_ms * 1e3 / self.machine.matmul_gflop_per_s

    @property
    def copy_share(self) -> float:
        """The share of the copy bandwidth that the step reaches; above 1 where a cache or a compiler helps."""
        return self.work.gb / self.step_ms * 1e3 / self.machine.copy_gb_per_s

    def sentence(self) -> str:
        """Say what limits the step."""
        shares = f"{self.matmul_share:.0%} of the matrix rate and {self.copy_share:.0%} of the copy bandwidth"
        if max(self.matmul_share, self.copy_share) < NEAR_A_LIMIT:
            neither = f"Neither arithmetic nor memory limits the step, which reaches {shares}"
            if self.compiled:  # its operators were counted uncompiled
                return f"{neither}."
            each_us = 1e3 * self.step_ms / max(1, self.work.num_operators)
            why = ", little more than it costs to start one" if each_us < STARTING_US else ""
            return f"{neither}: its {self.work.num_operators} operators take {each_us:,.0f} µs each{why}."
        if self.matmul_share >= self.copy_share:
            return f"Arithmetic limits the step: it reaches {shares}."
        return f"Memory bandwidth limits the step: it reaches {shares}."

    def figures(self) -> dict[str, Any]:
        """Return the rates, the work, the shares and the sentence."""
        return {
            **{name: round(value, 1) for name, value in asdict(self.machine).items()},
            "step_ms": round(self.step_ms, 4),
            "step_gflop": round(self.work.gflop, 4),
            "step_gb": round(self.work.gb, 4),
            "step_operators": self.work.num_operators,
            "matmul_share_pct": round(100 * self.matmul_share, 1),
            "copy_share_pct": round(100 * self.copy_share, 1),
            "limit": self.sentence(),
        }


def measure_machine(device: torch.device, dtype: torch.dtype, seconds: float) -> Machine:
    """Measure the two rates, each product and the copy for about `seconds`."""
    with torch.no_grad(), _arithmetic_of_convolutions():
        matmul_rates = [_matmul_gflop_per_s(device, one, seconds) for one in {dtype, torch.float32}]
        return Machine(_copy_gb_per_s(device, seconds), max(matmul_rates))


@contextmanager
def _arithmetic_of_convolutions() -> Iterator[None]:
    """Multiply matrices on CUDA in TF32 where convolutions do."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def _copy_gb_per_s(device: torch.device, seconds: float) -> float:
    num_bytes = 4 * last_cache_bytes(device)
    free = available_bytes(device)
    if free is not None:
        num_bytes = min(num_bytes, free // 8)
    source = torch.ones(num_bytes // 4, device=device)
    target = source.clone()
    copy_ms = median_ms(lambda: target.copy_(source), device, seconds)
    return (source.nbytes + target.nbytes) / copy_ms / 1e6


def _matmul_gflop_per_s(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    side = MATRIX_SIDE.get(device.type, CPU_MATRIX_SIDE)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)  # warm-up
    matmul_ms = median_ms(lambda: torch.mm(left, right), device, seconds)
    return 2 * side**3 / matmul_ms / 1e6
