"""How long each step takes, without waiting for the device."""

import statistics
import time

import torch

WARMUP_STEPS = 5  # of each start: compilation, kernel choice, cold caches


class StepClock:
    """Collects the duration of steps: by the host's clock on a CPU, by events in the device's queue on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._marks: list[float | torch.cuda.Event] = []
        self._warm: list[float] = []
        self._num_warmup = WARMUP_STEPS
        self.steps_s: list[float] = []

    def start(self) -> None:
        """Mark the beginning of a run of steps."""
        self._marks = []
        self.tick()

    def tick(self) -> None:
        """Mark the end of a step."""
        mark: float | torch.cuda.Event = time.perf_counter()
        if self._on_cuda:
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self._marks.append(mark)

    def collect(self) -> list[float]:
        """Return the seconds of each step since `start`, warm-up left out; the device must have finished them."""
        durations = [_seconds(*pair) for pair in zip(self._marks, self._marks[1:], strict=False)]
        self._marks = self._marks[-1:]
        warm, counted = durations[: self._num_warmup], durations[self._num_warmup :]
        self._num_warmup -= len(warm)
        self._warm += warm
        self.steps_s += counted
        return counted or durations

    def median_s(self) -> float | None:
        """Return the median step in seconds, over the warm-up only where there was nothing else; None if no step."""
        steps = self.steps_s or self._warm
        return statistics.median(steps) if steps else None


def _seconds(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1e3
    return float(end) - float(start)  # type: ignore[arg-type]
