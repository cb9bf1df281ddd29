"""What runs in a Slurm job: one trial, until it is done, is asked to stop, or is to make room."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tdbench.store.assignment import Assignment, Ended, Event, Progressed
from tdbench.store.files import write_atomically
from tdbench.store.folders import LOG
from tdbench.store.rows import TrialState
from tdbench.sweep.executors import TRAINING
from tdbench.sweep.slurm import submitit_module

# In the trial's folder: what submitit writes, and what passes between the job and the driver.
PLACE, STOP, BEGUN, PROGRESS = "slurm", "stop", "begun", "progress.json"
LOOK_EVERY_S = 1.0
PREEMPTING = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]

Signals = list[tuple[int, Callable[[int, None], Any]]]  # those that have come, with submitit's own handlers


class SlurmTrial:
    """A trial as the function that submitit pickles, and calls in the job."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment

    def __call__(self) -> Ended:
        """Run the trial and return how it ended; where the job is to go, it saves, and the job is queued again."""
        place, is_debugged = self.assignment.folder / PLACE, "SUBMITIT_DEBUG_JOB_ID" in os.environ
        place.mkdir(parents=True, exist_ok=True)
        (place / BEGUN).touch()
        signals: Signals = []
        if not is_debugged:
            listen(signals)
            log = os.open(self.assignment.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(log, stream.fileno())
        asked, last = Asked(place / STOP, signals), Latest(place / PROGRESS)
        ended: Ended = import_module(self.assignment.target or TRAINING).run_assignment(
            self.assignment, should_stop=asked, send=last
        )
        if signals and ended.status is TrialState.WAITING:
            number, requeue = signals[0]
            requeue(number, None)  # submitit's own: calls `checkpoint`, queues the job again and exits
        return ended

    def checkpoint(self) -> Any:
        """Return what the job runs when it is queued again: the same, from where it was saved."""
        return submitit_module().helpers.DelayedSubmission(SlurmTrial(replace(self.assignment, fresh=False)))


def listen(received: Signals) -> None:
    """Note the signals upon which submitit would leave at once, in the middle of a step."""
    for number in PREEMPTING:
        theirs = signal.getsignal(number)
        if callable(theirs):
            signal.signal(number, partial(lambda theirs, number, frame: received.append((number, theirs)), theirs))


class Asked:
    """Whether the trial is to save and stop: upon a signal, or a file that the driver makes."""

    def __init__(self, file: Path, signals: Signals) -> None:
        self._file, self._signals = file, signals
        self._is_asked, self._looked = False, 0.0

    def __call__(self) -> bool:
        """Return whether it is; the file is looked for once a second."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._is_asked, self._looked = self._file.exists(), time.monotonic()
        return self._is_asked or bool(self._signals)


class Latest:
    """Keeps the latest progress in a file, for the driver to read."""

    def __init__(self, file: Path) -> None:
        self._file, self._written = file, 0.0

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, Progressed) and time.monotonic() - self._written >= LOOK_EVERY_S:
            self._written = time.monotonic()
            with suppress(Exception):  # a full disk ends the trial elsewhere
                write_atomically(self._file, json.dumps(asdict(event.progress)).encode())
