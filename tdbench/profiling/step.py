"""A method inside a training step: the same network with and without it, measured in turns."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from tdbench.profiling.memory import OOM, attempt, keep_freed_memory, memory_limit, release
from tdbench.profiling.timing import TURNS, measuring, median_interval, median_ms, silent, take_turns
from tdbench.profiling.trace import profiled, raised_recompile_limit
from tdbench.store.profiles import BASELINE
from tdbench.store.progress import TellProgress

STEP_COLUMNS = (
    "method",
    "model",
    "batch_size",
    "precision",
    "compile",
    "device",
    "step_ms",
    "train_img_per_s",
    "overhead_pct",
    "peak_mem_mib",
    "overhead_ci95_low",
    "overhead_ci95_high",
    "n",
    "status",
)

OUT_OF_TIME = "out of time"  # the status of a batch size that was not tried
_REFERENCE = "baseline"  # the first of the two baselines


class TrainingStep(Protocol):
    """A network in training, on its device; each call does one optimizer step."""

    def __call__(self) -> None:
        """Do one step."""

    def eager(self) -> None:
        """Do one step kernel by kernel, also where a call launches a graph, which is given up for good."""

    def held_bytes(self) -> int:
        """Return the memory held between steps: weights, gradients, optimizer state, the batch."""


@dataclass
class StepCost:
    """Cost of a training step; unless `status` is `ok`, it says why there are no figures.

    Attributes:
        step_ms: Median of each turn; one run's are paired across methods.
        overhead_pct: Median over the turns of the extra time relative to the baseline's step; None without a baseline.
        overhead_ci95: Its 95 % confidence interval, from the order statistics of the turns.
        peak_mem_mib: The memory held between steps plus the peak that a step adds to it.
    """

    method: str
    batch_size: int
    status: str = "ok"
    step_ms: list[float] = field(default_factory=list)
    overhead_pct: float | None = None
    overhead_ci95: tuple[float, float] | None = None
    peak_mem_mib: float | None = None

    def figures(self) -> dict[str, Any]:
        """Return the cells of `STEP_COLUMNS` that belong to the step."""
        cells: dict[str, Any] = {"method": self.method, "batch_size": self.batch_size, "status": self.status}
        cells["n"] = len(self.step_ms)
        if not self.step_ms:
            return cells
        step_ms = self.median_ms()
        cells |= {"step_ms": round(step_ms, 4), "train_img_per_s": round(1e3 * self.batch_size / step_ms, 2)}
        if self.peak_mem_mib is not None:
            cells["peak_mem_mib"] = round(self.peak_mem_mib, 2)
        if self.overhead_pct is not None:
            cells |= {"overhead_pct": round(self.overhead_pct, 3)}
        if self.overhead_ci95 is not None:
            low, high = self.overhead_ci95
            cells |= {"overhead_ci95_low": round(low, 3), "overhead_ci95_high": round(high, 3)}
        return cells

    def median_ms(self) -> float:
        return statistics.median(self.step_ms)


def profile_steps(
    baseline: Callable[[], TrainingStep],
    methods: Mapping[str, Callable[[], TrainingStep]],
    batch_size: int,
    device: torch.device,
    seconds: float,
    turns: int = TURNS,
    report: TellProgress = silent,
) -> list[StepCost]:
    """Measure the step with each method relative to the step without.

    A second baseline, measured like a method, comes first: its apparent cost is the noise of this measurement.

    Args:
        baseline: Builds the step without a method.
        methods: Builds the step with a method, by its name.
        batch_size: Images per step.
        device: Where the steps run.
        seconds: Time for each method, over all turns.
        turns: See `take_turns`.
        report: Receives the progress.
    """
    builders = {_REFERENCE: baseline, BASELINE: baseline}
    builders |= {name: build for name, build in methods.items() if name != BASELINE}
    keep_freed_memory(device)  # as for the layers, so that their costs compare with these
    with memory_limit(device), raised_recompile_limit(len(builders)):
        steps = {}
        for number, (name, build) in enumerate(builders.items()):
            report(0.1 * number / len(builders), name)
            with measuring(name):
                step = attempt(build, device)
            if step is not None:
                steps[name] = step
        times = take_turns(
            steps, device, seconds, turns, lambda share, name: report(0.1 + 0.85 * share, name), busy=False
        )
        costs = []
        for number, name in enumerate([BASELINE, *(name for name in methods if name != BASELINE)]):
            report(0.95 + 0.05 * number / len(builders), name)
            if name not in times:
                costs.append(StepCost(name, batch_size, OOM))
                continue
            cost = StepCost(name, batch_size, step_ms=times[name])
            _compare(cost, times.get(_REFERENCE))
            with measuring(name):
                cost.peak_mem_mib = attempt(partial(peak_mem_mib, steps[name], device), device)
            costs.append(cost)
    return costs


def _compare(cost: StepCost, baseline_ms: list[float] | None) -> None:
    """Fill in the overhead, where there is a baseline."""
    if baseline_ms:
        overheads = [100 * (a / b - 1) for a, b in zip(cost.step_ms, baseline_ms, strict=True)]
        cost.overhead_pct, cost.overhead_ci95 = statistics.median(overheads), median_interval(overheads)


def peak_mem_mib(step: TrainingStep, device: torch.device) -> float | None:
    """Return the memory held between steps plus the peak that a step adds; None where it is not counted."""
    beyond = profiled(step.eager, device).peak_mem_mib  # a graph keeps its own memory, out of sight
    return None if beyond is None else step.held_bytes() / 2**20 + beyond


def batch_sizes(
    method: str,
    build: Callable[[int], TrainingStep],
    first: int,
    device: torch.device,
    seconds: float,
    search_seconds: float = math.inf,
) -> Iterator[StepCost]:
    """Double the batch size until memory or time runs out, or halve it until it fits; yield the cost of each size.

    On a CPU the limit is four fifths of the memory now free. The largest batch that fits is the largest whose status is
    `ok`. A size for which the time does not suffice is yielded with the status OUT_OF_TIME, and is the last.

    Args:
        method: Name of the method.
        build: Builds the step for a batch size.
        first: The batch size to begin with.
        device: Where the steps run.
        seconds: Time for each size.
        search_seconds: Time for all sizes; the first is tried in any case.
    """
    size, direction, took_s = first, 0, 0.0
    latest = time.perf_counter() + search_seconds
    while size >= 1:
        begun = time.perf_counter()
        if direction and begun + 2 * took_s > latest:  # twice the images may take twice the time
            yield StepCost(method, size, OUT_OF_TIME)
            return
        with memory_limit(device), measuring(method):
            cost = attempt(partial(_try_batch, method, build, size, device, seconds), device)
        release(device)
        took_s = time.perf_counter() - begun
        yield cost or StepCost(method, size, OOM)
        if direction == 0:
            direction = 1 if cost else -1
        if (cost is not None) != (direction > 0):
            return
        size = 2 * size if direction > 0 else size // 2


def _try_batch(
    method: str, build: Callable[[int], TrainingStep], size: int, device: torch.device, seconds: float
) -> StepCost:
    step = build(size)
    step()  # warm-up
    step_ms = median_ms(step, device, seconds, busy=False)
    return StepCost(method, size, step_ms=[step_ms], peak_mem_mib=peak_mem_mib(step, device))
