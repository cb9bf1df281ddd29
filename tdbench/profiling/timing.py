"""Times calls in turns, so that drift of the machine affects all of them alike, and compares them turn by turn.

CUDA events time calls on a GPU, `torch.utils.benchmark` those elsewhere.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch.utils.benchmark import Timer

from tdbench.errors import line_of
from tdbench.profiling.memory import attempt
from tdbench.store.progress import TellProgress

Call = Callable[[], object]
C = TypeVar("C", bound=Call)
N = TypeVar("N", str, tuple[str, str])  # of what is timed: a method, or a method and a part of it
TURNS = 11
FEWEST_TURNS = 6  # whose median has a 95 % confidence interval
QUEUED_MS = 20.0  # work queued on a GPU between host synchronisations
CYCLES_PER_S = 2e9  # at least a GPU's clock rate
LONGEST_LEAD_S = 0.05  # that the GPU is kept busy while the host queues


class MeasurementFailed(Exception):
    """A measured call raised an error, which is the cause of this one.

    Attributes:
        method: What was measured.
        error: What it raised.
    """

    def __init__(self, method: str, error: Exception) -> None:
        self.method, self.error = method, error
        super().__init__(method, error)

    def __str__(self) -> str:
        return f"while measuring {self.method}: {line_of(self.error)}"


def silent(share: float, what: str) -> None:
    """Discard the progress."""


@contextmanager
def measuring(method: str) -> Iterator[None]:
    """Raise MeasurementFailed, which names the method, from any error."""
    try:
        yield
    except MeasurementFailed:
        raise
    except Exception as error:
        raise MeasurementFailed(method, error) from error


def take_turns(
    calls: MutableMapping[N, C],
    device: torch.device,
    seconds: float,
    turns: int = TURNS,
    report: TellProgress = silent,
    *,
    busy: bool = True,
) -> dict[N, list[float]]:
    """Time calls in turns, for comparison.

    Each turn runs every call at least twice, every other turn in the opposite order; a first turn warms up and is not
    counted. Once it has taken twice the given time, it stops after six turns or more.

    Args:
        calls: What to time, by name.
        device: Where the calls work.
        seconds: Time for each call, over all its turns.
        turns: Number of turns that count.
        report: Receives the share done, before each measurement.
        busy: See `median_ms`.

    Returns:
        Milliseconds by name: the median of each turn. A call that ran out of memory is left out, and removed from
        `calls`, to free what it held.
    """
    times: dict[N, list[float]] = {name: [] for name in calls}
    done, total = 0, (turns + 1) * max(1, len(calls))
    latest = time.perf_counter() + 2 * seconds * len(calls)
    for turn in range(turns + 1):
        if turn > FEWEST_TURNS and time.perf_counter() > latest:
            break
        for name in list(times)[:: 1 if turn % 2 else -1]:
            method, what = (name, name) if isinstance(name, str) else (name[0], " ".join(name))
            report(done / total, what)
            done += 1
            with measuring(method):
                took_ms = attempt(partial(median_ms, calls[name], device, seconds / (turns + 1), busy), device)
            if took_ms is None:
                del times[name], calls[name]
            elif turn > 0:
                times[name].append(took_ms)
    return times


def median_ms(call: Call, device: torch.device, seconds: float, busy: bool = True) -> float:
    """Return the median time of a call in milliseconds, from about `seconds` of calls, at least two.

    Args:
        call: What is timed.
        device: Where it works.
        seconds: How long to time it.
        busy: Keep a GPU busy while the host queues calls, so that their time is the kernels' alone; else it is that of
            calls in a row, as in training, and the GPU waits where the host takes longer to launch than it to compute.
    """
    if device.type == "cuda":
        return statistics.median(_event_times_ms(call, device, seconds, busy))
    timer = Timer(
        "call()",
        timer=_mps_clock if device.type == "mps" else time.perf_counter,
        globals={"call": call},
        num_threads=torch.get_num_threads(),
    )
    return 1e3 * timer.blocked_autorange(min_run_time=seconds).median


def _mps_clock() -> float:
    torch.mps.synchronize()
    return time.perf_counter()


def host_ms(call: Call, device: torch.device, seconds: float) -> float | None:
    """Return the median time that the host takes to queue a call on a GPU that waits for it; None without a GPU."""
    if device.type != "cuda":
        return None
    call()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begun < seconds:
        torch.cuda.synchronize(device)
        queued = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - queued))
    return statistics.median(times)


def _event_times_ms(call: Call, device: torch.device, seconds: float, busy: bool) -> list[float]:
    """Return the time of each of several calls, by CUDA events around it, with one host synchronisation per burst.

    If the GPU is to be busy while the host queues a burst of calls, the events time kernels, not their dispatch. A call
    that itself synchronises is timed with its waits.
    """
    call()  # it may compile, which takes seconds
    torch.cuda.synchronize(device)
    times: list[float] = []
    num_calls, lead_cycles, begun = 1, 0, time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begun < seconds:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(num_calls + 1)]
        if lead_cycles:
            torch.cuda._sleep(lead_cycles)
        queued = time.perf_counter()
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        queued_s = time.perf_counter() - queued
        torch.cuda.synchronize(device)
        times += [start.elapsed_time(end) for start, end in pairwise(marks)]
        num_calls = min(50, max(1, int(QUEUED_MS / max(times[-1], 1e-3))))
        lead_s = min(queued_s / (len(marks) - 1) * num_calls, LONGEST_LEAD_S)
        lead_cycles = int(CYCLES_PER_S * lead_s) if busy else 0
    return times


def paired_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median ratio of the times of two calls, paired by turn."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return p20, p50 and p80."""
    low, *_, high = statistics.quantiles(values, n=5) if len(values) > 1 else [*values, *values]
    return low, statistics.median(values), high


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the median, by order statistics with ranks from Binomial(n, 1/2).

    None for fewer than six values, whose whole range covers less.
    """
    if len(values) < FEWEST_TURNS:
        return None
    ordered = sorted(values)
    low = max(0, binomial_quantile(0.025, len(ordered)) - 1)
    return ordered[low], ordered[-1 - low]


def binomial_quantile(share: float, num_tosses: int) -> int:
    """Return the quantile of Binomial(num_tosses, 1/2) at probability `share`."""
    ways, wanted = 0, share * 2**num_tosses
    for heads in range(num_tosses + 1):
        ways += math.comb(num_tosses, heads)
        if ways >= wanted:
            return heads
    return num_tosses
