"""How far a run is, and who hears of it: the words between the lab, which trains, and the bench, which tells people."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tdbench.errors import Note
from tdbench.store.rows import EpochRow, RunResult

TellProgress = Callable[[float, str], None]  # of a measurement: the share that is done, and what is measured now


_listener: ContextVar[TellProgress] = ContextVar("listener", default=lambda share, what: None)


@contextmanager
def telling(listener: TellProgress) -> Iterator[None]:
    """Let a function hear, for as long as this lasts, of what has to be made ready before the work itself.

    Data are read far below the command that shows it, and in processes of its own, which pass on what they hear.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(share: float, what: str) -> None:
    """Tell whoever listens how far something is that is made ready."""
    _listener.get()(share, what)


def part_of(report: TellProgress, begin: float, end: float, prefix: str) -> TellProgress:
    """Return what tells of a part of a measurement, which lies between two shares of the whole."""
    return lambda share, what: report(begin + (end - begin) * share, f"{prefix}: {what}")


@dataclass(frozen=True)
class Progress:
    """Where a run is; the averages are over the epoch so far."""

    epoch: int
    num_epochs: int
    step: int  # done, of the whole run
    num_steps: int
    batch_size: int
    train_loss: float
    train_error_pct: float
    test_error_pct: float | None  # of the last evaluation
    train_img_per_s: float


class Observer:
    """Hears of a run; this one passes notes on as warnings, and does nothing else."""

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        """Hear what runs where, and how many of its steps were done before."""

    def progressed(self, progress: Progress) -> None:
        """Hear how far the run is, about twice a second."""

    def evaluating(self, progress: Progress) -> None:
        """Hear that the training steps of an epoch are done and its evaluation begins."""

    def epoch_ended(self, row: EpochRow) -> None:
        """Hear the row of `metrics.csv` that an epoch gave."""

    def slowed(self, times: float) -> None:
        """Hear, once, that steps take this many times as long as the run's fastest did."""

    def noted(self, text: str) -> None:
        """Hear what the user may want to know and the run can go on without."""
        warnings.warn(text, Note, stacklevel=2)

    def ended(self, result: RunResult) -> None:
        """Hear how the run ended; `status` is waiting or killed where the same command goes on with it."""


class SweepObserver:
    """Hears of a sweep; this one does nothing. A trial is named by its digest."""

    def began(self, num_trials: int) -> None:
        """Hear how many trials are to be run."""

    def went_on(self, num_trials: int) -> None:
        """Hear that a look at a sequential sweep left values undecided, and how many more trials are to be run."""

    def trial_began(self, digest: str) -> None:
        """Hear that a trial runs now."""

    def trial_progressed(self, digest: str, progress: Progress) -> None:
        """Hear how far a trial is."""

    def trial_ended(self, digest: str, result: RunResult) -> None:
        """Hear how a trial ended."""

    def looked(self) -> None:
        """Hear that a moment has passed."""
