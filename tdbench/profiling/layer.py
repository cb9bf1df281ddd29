"""One layer alone, forward and backward, relative to the floor: a multiplication by a scalar in the same run.

A layer reads a feature map and writes one, forward and backward; so does `x * 1.5`, and no layer that returns a new map
needs less memory traffic. The inputs rotate through more memory than the last-level cache holds, so that each call
reads its input from memory, as a layer of a network does with a large batch. Freed memory stays with the process: to
return a large map to the system and fault it in again would cost more than the floor itself. What that comes to is
measured beside it (`plain_total_ms`), in fewer turns, where the system's allocator can be told to do either.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.profiling.memory import (
    OOM,
    attempt,
    available_bytes,
    give_back_freed_memory,
    has_regimes,
    keep_freed_memory,
    last_cache_bytes,
    memory_limit,
)
from tdbench.profiling.timing import (
    FEWEST_TURNS,
    TURNS,
    Call,
    host_ms,
    measuring,
    median_interval,
    paired_ratio,
    silent,
    spread,
    take_turns,
)
from tdbench.profiling.trace import graph_breaks, profiled, raised_recompile_limit
from tdbench.store.profiles import FLOOR
from tdbench.store.progress import TellProgress

MOST_PAIRS = 256  # limit for maps so small that overhead outweighs memory traffic

LAYER_COLUMNS = (
    "method",
    "shape",
    "dtype",
    "memory_format",
    "device",
    "forward_ms",
    "backward_ms",
    "total_ms",
    "p20_ms",
    "p80_ms",
    "floor_ratio",
    "gb_per_s",
    "peak_mem_mib",
    "launches",
    "host_syncs",
    "graph_breaks",
    "compile",
    "n",
    "status",
    "floor_ratio_ci95_low",
    "floor_ratio_ci95_high",
    "plain_total_ms",
    "plain_floor_ratio",
    "host_ms",
)

Factory = Callable[[int], nn.Module]  # channels -> layer


class Floor(nn.Module):
    """The cheapest layer that returns a new feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.5


@dataclass(frozen=True)
class Setting:
    """Form of the feature maps, whether layers are compiled, and the seed of maps, weights and masks."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    compile: bool = False
    seed: int = 0


@dataclass
class LayerCost:
    """Cost of one layer at one shape; unless `status` is `ok`, it is OOM and there are no figures.

    Attributes:
        total_ms: Forward and backward, the median of each turn; one run's are paired across layers.
        floor_ratio: Median of the ratios of `total_ms` to the floor's, of one turn each.
        floor_interval: The 95 % confidence interval of that median.
        plain_ms, plain_floor_ratio: As `total_ms` and `floor_ratio`, where freed memory goes back to the system.
        gb_per_s: Useful bytes, a map read and written forward and again backward, over the total time; None for a
            layer that returns its input itself.
        peak_mem_mib, launches, host_syncs: See `Trace`; of forward and backward.
        graph_breaks: Under torch.compile.
        host_ms: What the host takes to queue forward and backward on a GPU; None elsewhere.
    """

    method: str
    status: str = "ok"
    forward_ms: list[float] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    floor_ratio: float | None = None
    floor_interval: tuple[float, float] | None = None
    plain_ms: list[float] = field(default_factory=list)
    plain_floor_ratio: float | None = None
    gb_per_s: float | None = None
    peak_mem_mib: float | None = None
    launches: int | None = None
    host_syncs: int | None = None
    graph_breaks: int | None = None
    host_ms: float | None = None

    def figures(self) -> dict[str, Any]:
        """Return the cells of `LAYER_COLUMNS` that belong to the layer."""
        cells: dict[str, Any] = {"method": self.method, "status": self.status, "n": len(self.total_ms)}
        if self.status != "ok":
            return cells
        low, middle, high = spread(self.total_ms)
        _, forward_ms, _ = spread(self.forward_ms)
        # Backward is the total minus forward; where noise makes it negative, there is no figure.
        backward = [total - forward for total, forward in zip(self.total_ms, self.forward_ms, strict=True)]
        _, backward_ms, _ = spread(backward)
        return cells | {
            "forward_ms": round(forward_ms, 4),
            "backward_ms": round(backward_ms, 4) if backward_ms >= 0 else None,
            "total_ms": round(middle, 4),
            "p20_ms": round(low, 4),
            "p80_ms": round(high, 4),
            "floor_ratio": None if self.floor_ratio is None else round(self.floor_ratio, 4),
            "gb_per_s": None if self.gb_per_s is None else round(self.gb_per_s, 2),
            "peak_mem_mib": None if self.peak_mem_mib is None else round(self.peak_mem_mib, 3),
            "launches": self.launches,
            "host_syncs": self.host_syncs,
            "graph_breaks": self.graph_breaks,
            "floor_ratio_ci95_low": None if self.floor_interval is None else round(self.floor_interval[0], 4),
            "floor_ratio_ci95_high": None if self.floor_interval is None else round(self.floor_interval[1], 4),
            "plain_total_ms": round(spread(self.plain_ms)[1], 4) if self.plain_ms else None,
            "plain_floor_ratio": None if self.plain_floor_ratio is None else round(self.plain_floor_ratio, 4),
            "host_ms": None if self.host_ms is None else round(self.host_ms, 4),
        }


class _Inputs:
    """Feature maps and gradients that rotate through more memory than the last-level cache holds."""

    def __init__(self, shape: tuple[int, ...], setting: Setting) -> None:
        pair_bytes = 2 * math.prod(shape) * setting.dtype.itemsize
        wanted = 2 * last_cache_bytes(setting.device)
        free = available_bytes(setting.device)
        if free is not None:
            wanted = min(wanted, free // 4)  # the cache may be larger than a small machine can spare
        num_pairs = min(MOST_PAIRS, max(2, -(-wanted // pair_bytes)))
        self.pairs = [(self._map(shape, setting).relu(), self._map(shape, setting)) for _ in range(num_pairs)]
        for x, _ in self.pairs:
            x.requires_grad_()
        self._rotation = itertools.cycle(self.pairs)

    @staticmethod
    def _map(shape: tuple[int, ...], setting: Setting) -> Tensor:
        values = torch.randn(shape, dtype=setting.dtype, device=setting.device)
        return values.contiguous(memory_format=setting.memory_format)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next feature map and a gradient of the layer's output."""
        return next(self._rotation)


class _Cell:
    """One layer at one shape, with the calls to be timed."""

    def __init__(self, factory: Factory, channels: int, inputs: _Inputs, setting: Setting) -> None:
        self._layer = factory(channels).to(setting.device).train()
        self._weights = [weight for weight in self._layer.parameters() if weight.requires_grad]
        self._inputs, self._setting = inputs, setting
        x, _ = inputs.pairs[0]
        with self._autocast():
            self.graph_breaks = graph_breaks(self._layer, x)
            self.hands_on_its_input = self._layer(x) is x
        if setting.compile:
            self._layer.compile(dynamic=False)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of a training step."""
        if self._setting.dtype not in (torch.bfloat16, torch.float16):
            return nullcontext()
        return torch.autocast(self._setting.device.type, dtype=self._setting.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        with self._autocast():
            return self._layer(x)

    def forward(self) -> None:
        """Run forward, and save what backward needs."""
        self._forward(self._inputs.next()[0])

    def forward_and_backward(self) -> None:
        x, grad = self._inputs.next()
        torch.autograd.grad(self._forward(x), [x, *self._weights], grad, allow_unused=True)


def profile_layers(
    factories: Mapping[str, Factory],
    shape: tuple[int, int, int, int],
    setting: Setting,
    seconds: float,
    turns: int = TURNS,
    report: TellProgress = silent,
) -> list[LayerCost]:
    """Measure layers on random maps after a ReLU, the floor first.

    Args:
        factories: Number of channels to layer, by method.
        shape: (N, C, H, W).
        setting: Form of the feature maps.
        seconds: Time for each layer, over all turns of forward alone and of forward with backward.
        turns: See `take_turns`.
        report: Receives the progress.
    """
    every = {FLOOR: lambda channels: Floor(), **factories}
    device = setting.device
    torch.manual_seed(setting.seed)
    with memory_limit(device), raised_recompile_limit(len(every)):
        inputs = attempt(partial(_Inputs, shape, setting), device)
        if inputs is None:
            return [LayerCost(method, OOM) for method in every]
        cells = {}
        for number, (method, factory) in enumerate(every.items()):
            report(0.1 * number / len(every), method)
            with measuring(method):
                cell = attempt(partial(_Cell, factory, shape[1], inputs, setting), device)
            if cell is not None:
                cells[method] = cell
        plain = _plain_times(cells, device, seconds / 4, lambda share, what: report(0.1 + 0.15 * share, what))
        keep_freed_memory(device)
        costs = _time(cells, device, seconds, turns, lambda share, what: report(0.25 + 0.7 * share, what))
        for method, times in plain.items():
            if method in costs:
                costs[method].plain_ms = times
        for number, cost in enumerate(costs.values()):
            report(0.95 + 0.05 * number / len(costs), cost.method)
            with measuring(cost.method):
                _complete(cost, cells[cost.method], costs.get(FLOOR), inputs, device)
                cost.host_ms = host_ms(cells[cost.method].forward_and_backward, device, seconds / 8)
    return [costs.get(method, LayerCost(method, OOM)) for method in every]


def _plain_times(
    cells: dict[str, _Cell], device: torch.device, seconds: float, report: TellProgress
) -> dict[str, list[float]]:
    """Return the times of forward and backward with freed memory given back; empty where that cannot be chosen."""
    if not has_regimes(device):
        return {}
    give_back_freed_memory(device)
    calls: dict[str, Call] = {method: cell.forward_and_backward for method, cell in cells.items()}
    return take_turns(calls, device, seconds, FEWEST_TURNS, report)


def _time(
    cells: dict[str, _Cell], device: torch.device, seconds: float, turns: int, report: TellProgress
) -> dict[str, LayerCost]:
    """Return the times of the layers that do not run out of memory."""
    calls: dict[tuple[str, str], Call] = {}
    for method, cell in cells.items():
        calls[method, "forward"] = cell.forward
        calls[method, "both ways"] = cell.forward_and_backward
    times = take_turns(calls, device, seconds / 2, turns, report)
    costs = {}
    for method in cells:
        forward_ms, total_ms = times.get((method, "forward")), times.get((method, "both ways"))
        if forward_ms and total_ms:
            costs[method] = LayerCost(method, forward_ms=forward_ms, total_ms=total_ms)
    return costs


def _complete(cost: LayerCost, cell: _Cell, floor: LayerCost | None, inputs: _Inputs, device: torch.device) -> None:
    """Fill in the figures other than times."""
    if floor is not None:
        cost.floor_ratio = paired_ratio(cost.total_ms, floor.total_ms)
        cost.floor_interval = median_interval([a / b for a, b in zip(cost.total_ms, floor.total_ms, strict=True)])
        if len(cost.plain_ms) == len(floor.plain_ms) > 0:
            cost.plain_floor_ratio = paired_ratio(cost.plain_ms, floor.plain_ms)
    if not cell.hands_on_its_input:
        cost.gb_per_s = 4 * inputs.pairs[0][0].nbytes / spread(cost.total_ms)[1] / 1e6
    cost.graph_breaks = cell.graph_breaks
    seen = attempt(partial(profiled, cell.forward_and_backward, device), device)
    if seen is not None:
        cost.launches, cost.host_syncs, cost.peak_mem_mib = seen.launches, seen.host_syncs, seen.peak_mem_mib
