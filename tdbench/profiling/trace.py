"""Kernel launches, host synchronisations and peak memory of a call by torch.profiler; its work and graph breaks."""

import gc
import logging
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from tdbench.profiling.timing import Call

_MARK = "tdbench_call"
_LAUNCHES = ("LaunchKernel", "LaunchCooperativeKernel", "GraphLaunch")  # in the names of CUDA runtime calls


@dataclass(frozen=True)
class Trace:
    """What one call did.

    Attributes:
        launches: Kernel launches on CUDA. Elsewhere the operators that touch memory, views left out, of the uncompiled
            call: about as many as a GPU would launch.
        host_syncs: Host synchronisations on CUDA; there both are None where the profiler cannot see them (it needs
            CUPTI, and the right to use it). Elsewhere the times that a value was read back (`item`, `nonzero`),
            which would synchronise a GPU.
        peak_mem_mib: Peak memory of the call beyond what was allocated before it; None where it is not counted. On a
            CPU it is what torch's allocator sees, without the scratch memory of libraries.
    """

    launches: int | None
    host_syncs: int | None
    peak_mem_mib: float | None


@dataclass(frozen=True)
class Work:
    """The work of one uncompiled call.

    Attributes:
        gflop: Of convolutions and matrix products, by `torch.utils.flop_counter`.
        gb: Operands and results of every operator, each read or written once in memory; fusion and caches reduce it.
        num_operators: Operators that touch memory.
    """

    gflop: float
    gb: float
    num_operators: int


def profiled(call: Call, device: torch.device) -> Trace:
    """Run a call twice under the profiler, and return the trace of the second."""
    on_cuda, before = device.type == "cuda", 0
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_cuda]
    gc.collect()  # garbage that went in the midst of the call would be taken off its peak
    with profile(activities=activities, profile_memory=device.type == "cpu") as profiler:
        call()  # it may free memory allocated before the profiler started
        if on_cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with record_function(_MARK):
            call()
        if on_cuda:
            torch.cuda.synchronize(device)
    events = [event for event in profiler.events() or () if event.device_type == DeviceType.CPU]
    mark = next(event.time_range for event in events if event.name == _MARK)
    names = [event.name for event in events if mark.start <= event.time_range.start < mark.end]
    if on_cuda:
        sees_calls = any(event.name.startswith("cuda") for event in events)  # it waited for the device, for one
        return Trace(
            launches=sum(any(part in name for part in _LAUNCHES) for name in names) if sees_calls else None,
            host_syncs=sum("Synchronize" in name for name in names) if sees_calls else None,
            peak_mem_mib=(torch.cuda.max_memory_allocated(device) - before) / 2**20,
        )
    return Trace(
        launches=_count_operators(call),
        host_syncs=sum(name in ("aten::_local_scalar_dense", "aten::nonzero") for name in names),
        peak_mem_mib=_peak_allocated(profiler) / 2**20 if device.type == "cpu" else None,
    )


def _peak_allocated(profiler: profile) -> int:
    """Return the peak of the bytes allocated in the marked call beyond those before it."""
    results: Any = profiler.profiler
    events = sorted(results.kineto_results.events(), key=lambda event: event.start_ns())
    held = before = peak = 0
    for event in events:
        if event.name() == _MARK:
            before = peak = held
        elif event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    return peak - before


def _count_operators(call: Call) -> int:
    with torch.compiler.set_stance("force_eager"), _Traffic() as traffic:
        call()
    return traffic.num_operators


def count_work(call: Call) -> Work:
    """Run a call once, uncompiled, and count its work."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call()
    return Work(flops.get_total_flops() / 1e9, traffic.num_bytes / 1e9, traffic.num_operators)


class _Traffic(TorchDispatchMode):
    """Counts the operators that touch memory, and the bytes of their operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.num_operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            # An expanded tensor has more elements than memory.
            self.num_bytes += sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)
            self.num_operators += 1
        return out


def raised_recompile_limit(num_modules: int) -> AbstractContextManager[None]:
    """Raise torch.compile's limits so that it specialises shared code for each of `num_modules` modules.

    After its usual 8 specialisations it would run the others uncompiled, with only a warning.
    """
    config = torch._dynamo.config
    # torch 2.6 calls it the limit of a cache's size; from 2.7 on that is a second name.
    kind = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    raised = {name: getattr(config, name) * num_modules for name in (kind, f"accumulated_{kind}")}
    return config.patch(raised)


def graph_breaks(layer: nn.Module, x: Tensor) -> int | None:
    """Return the number of graph breaks of torch.compile in a forward; None where its tracer itself fails.

    Resets torch.compile, which forgets what it has compiled so far.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the tracer warns of each graph break
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch._dynamo.reset()
            before = counters["graph_break"].total()
            torch.compile(layer, backend="eager")(x)
            return counters["graph_break"].total() - before
    except TorchDynamoException:
        return None
    finally:
        torch._dynamo.reset()
        logging.disable(disabled)
