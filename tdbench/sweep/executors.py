"""Where trials run: in processes of this machine. `ray_executor` runs the same assignments on a cluster."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from tdbench.store.assignment import Assignment, Ended, Event, late
from tdbench.store.rows import TrialState
from tdbench.sweep import lab

TRAINING = "tdbench.sweep.worker"
GRACE_S = 5.0  # for a process to end by itself


class Executor(Protocol):
    """Runs trials at once, each by itself."""

    @property
    def num_free(self) -> int:
        """How many more trials can be submitted now."""

    def submit(self, assignment: Assignment) -> None:
        """Begin a trial."""

    def wait(self, timeout_s: float) -> list[Event]:
        """Return what has happened, within the time; every trial that was submitted ends with one `Ended`."""

    def stop(self) -> None:
        """Ask the running trials to save and stop."""

    def close(self) -> None:
        """End whatever still runs."""


@dataclass
class RunningTrial:
    """A trial in its process."""

    assignment: Assignment
    process: BaseProcess
    link: Connection
    slot: dict[str, str]
    started: float = field(default_factory=time.monotonic)


class LocalExecutor:
    """A process per trial, forked from a server that has torch imported already; a start costs hundredths of a second.

    Args:
        slots: The environment of each trial that may run at once, such as the GPU that it sees.
        timeout_s: Seconds after which a trial is given up, None: never.
    """

    def __init__(self, slots: Sequence[dict[str, str]], timeout_s: float | None = None) -> None:
        self._slots, self._timeout_s = list(slots), timeout_s
        self._running: dict[str, RunningTrial] = {}

    @property
    def num_free(self) -> int:
        return len(self._slots)

    def submit(self, assignment: Assignment) -> None:
        slot = self._slots.pop(0)
        assignment = replace(assignment, environment=assignment.environment | slot)
        process, link = lab.start_process(f"{assignment.target or TRAINING}:work", assignment)
        self._running[assignment.digest] = RunningTrial(assignment, process, link, slot)

    def wait(self, timeout_s: float) -> list[Event]:
        handles = [handle for run in self._running.values() for handle in (run.link, run.process.sentinel)]
        if not handles:
            return []
        wait(handles, timeout_s)
        return [event for run in list(self._running.values()) for event in self._news(run)]

    def _news(self, run: RunningTrial) -> list[Event]:
        events: list[Event] = []
        alive = run.process.is_alive()  # asked first: whatever a dead process said has arrived by then
        with suppress(EOFError, OSError):
            while run.link.poll():
                events.append(run.link.recv())
        if events and isinstance(events[-1], Ended):
            run.process.join(GRACE_S)
        elif not alive:
            events.append(Ended(run.assignment.digest, TrialState.KILLED, cause_of_death(run.process.exitcode)))
        elif self._timeout_s is not None and time.monotonic() - run.started > self._timeout_s:
            events.append(Ended(run.assignment.digest, TrialState.FAILED, late(self._timeout_s)))
        else:
            return events
        self._release(run)
        return events

    def _release(self, run: RunningTrial) -> None:
        if run.assignment.target is not None and run.process.pid is not None:
            with suppress(OSError):  # whatever the script has started, which outlives a process that was killed
                os.killpg(run.process.pid, signal.SIGKILL)
        if run.process.is_alive():
            run.process.kill()
        run.process.join()
        run.link.close()
        del self._running[run.assignment.digest]
        self._slots.append(run.slot)

    def stop(self) -> None:
        """Ask the running trials to save and stop."""
        for run in self._running.values():
            with suppress(OSError):
                run.link.send("stop")

    def close(self) -> None:
        for run in list(self._running.values()):
            self._release(run)


def cause_of_death(exit_code: int | None) -> str:
    """Return in words why a process ended without a report."""
    if exit_code is not None and exit_code < 0:
        number = -exit_code
        name = signal.Signals(number).name if number in set(signal.Signals) else "?"
        hint = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by signal {number} ({name}{hint})"
    return f"its process ended by itself with exit code {exit_code}"
