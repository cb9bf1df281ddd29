"""The time of each step, and how much of it is waiting for its batch, without host synchronisation."""

import math
import statistics
import time

import torch

WARMUP_STEPS = 5  # of each start: compilation, kernel choice, cold caches
RECENT_STEPS = 50

_Mark = float | torch.cuda.Event | torch.mps.Event


class StepClock:
    """Collects the duration of steps: by the host's clock on a CPU, by events on a GPU.

    A step waits for its batch from the end of the step before: meanwhile a GPU waits for the host, or copies or makes
    the batch; on a CPU the host makes it itself.

    Attributes:
        steps_s: Seconds of each step of the run, warm-up left out.
        waits_s: Seconds of each step until its batch was ready.
    """

    def __init__(self, device: torch.device) -> None:
        self._event = {"cuda": torch.cuda.Event, "mps": torch.mps.Event}.get(device.type)
        self._steps: list[tuple[_Mark, _Mark, _Mark]] = []  # end of the step before, batch ready, end
        self._warmup: list[tuple[float, float]] = []
        self._epoch_start = 0
        self._fastest_s = math.inf
        self.steps_s: list[float] = []
        self.waits_s: list[float] = []

    def start(self) -> None:
        """Mark the beginning of an epoch's steps."""
        self._steps = []
        self._epoch_start = len(self.steps_s)
        self._end = self._mark()

    def forget(self) -> None:
        """Let go of the marks so far, of which nobody wants to know."""
        self._steps = []

    def batch_ready(self) -> None:
        """Mark that a step has its batch."""
        self._ready = self._mark()

    def tick(self) -> None:
        """Mark the end of a step."""
        end = self._mark()
        self._steps.append((self._end, self._ready, end))
        self._end = end

    def _mark(self) -> _Mark:
        if self._event is None:
            return time.perf_counter()
        event = self._event(enable_timing=True)
        event.record()
        return event

    def collect(self) -> None:
        """Turn the marks so far into durations; the device must have finished these steps."""
        durations = [(_seconds(before, end), _seconds(before, ready)) for before, ready, end in self._steps]
        self._steps = []
        num_warmup = WARMUP_STEPS - len(self._warmup)
        self._warmup += durations[:num_warmup]
        self.steps_s += [step_s for step_s, _ in durations[num_warmup:]]
        self.waits_s += [wait_s for _, wait_s in durations[num_warmup:]]

    def median_s(self) -> float | None:
        """Return the median step of the run in seconds, of the warm-up if there are no others; None without steps."""
        return self._median(self.steps_s)

    def epoch_median_s(self) -> float | None:
        """Return the median step of the epoch, as `median_s` does for the run."""
        return self._median(self.steps_s[self._epoch_start :])

    def recent_median_s(self) -> float | None:
        """Return the median of the last steps; its cost does not grow with the run."""
        return self._median(self.steps_s[-RECENT_STEPS:])

    def times_slower(self) -> float:
        """Return the median of the last RECENT_STEPS steps over the lowest such median so far; 1 for fewer steps."""
        if len(self.steps_s) < RECENT_STEPS:
            return 1.0
        median_s = statistics.median(self.steps_s[-RECENT_STEPS:])
        self._fastest_s = min(self._fastest_s, median_s)
        return median_s / self._fastest_s

    def _median(self, steps_s: list[float]) -> float | None:
        steps_s = steps_s or [step_s for step_s, _ in self._warmup]
        return statistics.median(steps_s) if steps_s else None

    def data_wait_pct(self) -> float | None:
        """Return the share of the step time spent waiting for batches, in per cent; None without steps."""
        steps = list(zip(self.steps_s, self.waits_s, strict=True)) or self._warmup
        total_s = sum(step_s for step_s, _ in steps)
        return 100 * sum(wait_s for _, wait_s in steps) / total_s if total_s else None


def _seconds(start: _Mark, end: _Mark) -> float:
    if isinstance(start, float):
        return end - start  # type: ignore[operator]
    return start.elapsed_time(end) / 1e3  # type: ignore[arg-type]
