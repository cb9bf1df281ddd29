"""What runs in a trial's own process: the training, and the line to the process that drives the sweep.

The forkserver imports this module once, torch with it, and forks it for each trial; nothing here may start threads or
touch a GPU on import.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, Interrupted, TdbenchError
from tdbench.training.loop import TRIES_AGAIN, Observer, train
from tdbench.training.run import Progress

LOG = "log.txt"
PATIENCE_S = 60.0  # for a worker of a driver that was killed, which notices it within a step


@dataclass(frozen=True)
class Assignment:
    """One trial, as it travels to its process."""

    digest: str
    config: dict[str, Any]
    folder: Path
    fresh: bool = False
    log: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Progressed:
    """A trial has come so far."""

    digest: str
    progress: Progress


@dataclass(frozen=True)
class Ended:
    """A trial is over: `done`, `diverged`, `failed` (it would fail again), `killed`, or `stopped` (both go on)."""

    digest: str
    status: str
    reason: str | None = None


Event = Progressed | Ended


class Reporting(Observer):
    """Reports the progress of a trial, and writes its curves elsewhere where that is asked."""

    def __init__(self, digest: str, send: Callable[[Event], None], other: Observer) -> None:
        self._digest, self._send, self._other = digest, send, other

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        """Pass it on."""
        self._other.started(facts, step, num_steps)

    def progressed(self, progress: Progress) -> None:
        """Report how far the trial is."""
        self._send(Progressed(self._digest, progress))

    def evaluating(self, progress: Progress) -> None:
        """Report how far the trial is."""
        self._send(Progressed(self._digest, progress))

    def epoch_ended(self, row: dict[str, Any]) -> None:
        """Pass it on."""
        self._other.epoch_ended(row)


def run_assignment(
    assignment: Assignment, send: Callable[[Event], None], should_stop: Callable[[], bool] = lambda: False
) -> Ended:
    """Train a trial in this process and return how it ended; whatever it raises is caught."""
    try:
        config = RunConfig.model_validate(assignment.config)
        if config.digest() != assignment.digest:
            raise ConfigError("the model's or method's file has changed since the sweep was planned; run it again")
        observer = Reporting(assignment.digest, send, observer_of(assignment, config))
        result = train(
            config,
            assignment.folder,
            fresh=assignment.fresh,
            observer=observer,
            should_stop=should_stop,
            patience_s=PATIENCE_S,
        )
    except Interrupted:
        return Ended(assignment.digest, "stopped")
    except TdbenchError as error:
        with suppress(OSError):  # a full disk must not hide the reason
            traceback.print_exception(error.__cause__ or error)
        return Ended(assignment.digest, "failed", str(error).splitlines()[0].removesuffix(TRIES_AGAIN))
    except Exception as error:
        with suppress(OSError):
            traceback.print_exc()
        return Ended(assignment.digest, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
    return Ended(assignment.digest, result["status"], result["error"])


def observer_of(assignment: Assignment, config: RunConfig) -> Observer:
    """Return what else watches a trial."""
    if assignment.log == "tensorboard":
        from tdbench.training.tensorboard import TensorBoard

        return TensorBoard(assignment.folder, config)
    return Observer()


def work(assignment: Assignment, link: Connection) -> None:
    """Run a trial as the main function of a process; a message over the link asks it to save and stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the driver decides what it means
    watch_parent()
    os.environ.update(assignment.environment)
    with suppress(OSError):  # a trial without a log is better than none
        assignment.folder.mkdir(parents=True, exist_ok=True)
        log = os.open(assignment.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log, stream.fileno())

    def send(event: Event) -> None:
        with suppress(OSError):  # a driver that has gone needs no report
            link.send(event)

    send(run_assignment(assignment, send, should_stop=link.poll))


def watch_parent() -> None:
    """End this process when the one that drives the sweep is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a trial's process is a child"

    def die_with_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_it, daemon=True).start()
