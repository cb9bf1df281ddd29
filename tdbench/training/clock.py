"""How long each step takes, without waiting for the device."""

import statistics
import time

import torch

WARMUP_STEPS = 5  # of each start: compilation, kernel choice, cold caches
RECENT_STEPS = 50


class StepClock:
    """Collects the duration of steps: by the host's clock on a CPU, by events in the device's queue on a GPU.

    Attributes:
        steps_s: Seconds of each step of the run, warm-up left out.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._marks: list[float | torch.cuda.Event] = []
        self._warmup_s: list[float] = []
        self._epoch_start = 0
        self.steps_s: list[float] = []

    def start(self) -> None:
        """Mark the beginning of an epoch's steps."""
        self._marks = []
        self._epoch_start = len(self.steps_s)
        self.tick()

    def tick(self) -> None:
        """Mark the end of a step."""
        mark: float | torch.cuda.Event = time.perf_counter()
        if self._on_cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append(mark)

    def collect(self) -> None:
        """Turn the marks so far into durations; the device must have finished these steps."""
        durations = [_seconds(*pair) for pair in zip(self._marks, self._marks[1:], strict=False)]
        self._marks = self._marks[-1:]
        num_warmup = WARMUP_STEPS - len(self._warmup_s)
        self._warmup_s += durations[:num_warmup]
        self.steps_s += durations[num_warmup:]

    def median_s(self) -> float | None:
        """Return the median step of the run in seconds, of the warm-up where there was nothing else, or None."""
        return _median(self.steps_s or self._warmup_s)

    def epoch_median_s(self) -> float | None:
        """Return the median step of the epoch, likewise."""
        return _median(self.steps_s[self._epoch_start :] or self._warmup_s)

    def recent_median_s(self) -> float | None:
        """Return the median of the last steps; its cost does not grow with the run."""
        return _median(self.steps_s[-RECENT_STEPS:] or self._warmup_s)


def _median(seconds: list[float]) -> float | None:
    return statistics.median(seconds) if seconds else None


def _seconds(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1e3
    return float(end) - float(start)  # type: ignore[arg-type]
