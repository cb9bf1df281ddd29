"""What runs in a trial's own process: the training, and the line to the process that drives the sweep.

The forkserver imports this module once, torch and all that trials need with it, and forks it for each trial; nothing
here may start threads or touch a GPU on import.
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection

import tdbench.training.ahead
import tdbench.training.loop  # noqa: F401
from tdbench.config import RunConfig
from tdbench.config.contents import one_look
from tdbench.errors import Damaged, Interrupted, InUse, RunFailed, TdbenchError, WriteError, is_full_disk
from tdbench.store.assignment import Assignment, Ended, Event, Progressed, late
from tdbench.store.folders import LOG
from tdbench.store.progress import Observer, Progress
from tdbench.store.rows import TrialState
from tdbench.training.on_ray import RayTasks
from tdbench.training.train import train, with_loggers
from tdbench.user_code import reason_of

PATIENCE_S = 60.0  # for a worker of a driver that was killed, which notices it within a step
RAY_LOOK_S = 0.2


class TrialObserver(Observer):
    """Reports the progress of a trial, and keeps what is noted for the driver."""

    def __init__(self, digest: str, send: Callable[[Event], None]) -> None:
        self._digest, self._send = digest, send
        self.notes: list[str] = []

    def progressed(self, progress: Progress) -> None:
        self._send(Progressed(self._digest, progress))

    def evaluating(self, progress: Progress) -> None:
        self._send(Progressed(self._digest, progress))

    def noted(self, text: str) -> None:
        self.notes.append(text)


def run_assignment(
    assignment: Assignment, send: Callable[[Event], None], should_stop: Callable[[], bool] = lambda: False
) -> Ended:
    """Run a trial in this process and return how it ended; whatever it raises is caught."""
    if assignment.target is not None:
        ended: Ended = import_module(assignment.target).run_assignment(assignment, should_stop)
        return ended
    observer = TrialObserver(assignment.digest, send)
    return replace(train_trial(assignment, observer, should_stop), notes=tuple(observer.notes))


def train_trial(assignment: Assignment, observer: Observer, should_stop: Callable[[], bool]) -> Ended:
    """Train a trial as `run_assignment` does; `observer` hears of it."""
    try:
        with one_look():
            config = RunConfig.model_validate(assignment.config)
            if config.digest() != assignment.digest:
                reason = "the data or your code has changed since the sweep was planned; change it back, or "
                reason += "take another --out"  # and no failure of the trial that was planned
                return Ended(assignment.digest, TrialState.KILLED, reason)
            observer = with_loggers(observer, assignment.log, config, assignment.folder)
            begin = partial(
                train, config, assignment.folder, observer=observer, should_stop=should_stop, patience_s=PATIENCE_S
            )
            try:
                result = begin(fresh=assignment.fresh)
            except Damaged as error:  # from its start the trial comes to the same
                print(f"the trial starts over: {error}", file=sys.stderr)
                result = begin(fresh=True)
    except Interrupted:
        return Ended(assignment.digest, TrialState.WAITING)
    except InUse as error:  # what another process makes of it stands there then
        return Ended(assignment.digest, TrialState.KILLED, str(error))
    except Exception as error:
        with suppress(OSError):  # a full disk must not hide the reason
            traceback.print_exception((error.__cause__ or error) if isinstance(error, TdbenchError) else error)
        reason = error.reason if isinstance(error, RunFailed) else reason_of(error)
        full = isinstance(error, (WriteError, RunFailed)) and is_full_disk(error)  # not an image that cannot be read
        if full or isinstance(error, WriteError):  # the same command goes on when there is room
            return Ended(assignment.digest, TrialState.KILLED, reason, no_room=full)
        return Ended(assignment.digest, TrialState.FAILED, reason)
    return Ended(assignment.digest, result.status, result.error)


def work(assignment: Assignment, link: Connection) -> None:
    """Run a trial as the main function of a process; a message over the link asks it to save and stop."""
    os.environ.update(assignment.environment)
    with suppress(OSError):  # a trial without a log is better than none
        assignment.folder.mkdir(parents=True, exist_ok=True)
        log = os.open(assignment.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log, stream.fileno())

    def send(event: Event) -> None:
        with suppress(OSError):  # a driver that has gone needs no report
            link.send(event)

    send(run_assignment(assignment, send, should_stop=link.poll))


def drive_ray(
    needs: tuple[int, int, float, str | None], timeout_s: float | None, environment: dict[str, str], link: Connection
) -> None:
    """Run assignments as Ray tasks, as the main function of a process; "stop" and "close" are orders too.

    A Ray of this machine's own sees what `environment` says, such as some of its GPUs.

    It says how many assignments it has seen, how many more there is room for, and what has happened.
    """
    os.environ.update(environment)
    try:
        tasks = RayTasks(run_assignment, *needs)
    except TdbenchError as error:
        link.send(error)
        return
    num_seen, order = 0, None
    while order != "close":
        events: list[Event] = tasks.news()
        for assignment, ended, lost in tasks.over(RAY_LOOK_S):
            events.append(ended or Ended(assignment.digest, TrialState.KILLED, lost))
        if timeout_s is not None:
            reason = late(timeout_s)
            events += [Ended(one.digest, TrialState.FAILED, reason) for one in tasks.give_up(timeout_s)]
        while link.poll() and order != "close":
            order = link.recv()
            if isinstance(order, Assignment):
                tasks.submit(order)
                num_seen += 1
            elif order == "stop":
                tasks.stop()
        link.send((num_seen, tasks.num_free(), events))
    tasks.close()
