"""What runs in a process of its own: a user's script or function, until it ends or is told to, or the driver is gone.

The process leads a group, so that whatever the script has started ends with it.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tdbench.errors import WriteError, is_full_disk
from tdbench.store.assignment import Assignment, Ended
from tdbench.store.folders import LOG, RunFolder
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep import lab
from tdbench.sweep.executors import cause_of_death
from tdbench.sweep.own.plan import Job, OwnTrial
from tdbench.sweep.own.script import LARGEST, OUT, OUT_FOLDER, SEED, STDOUT, STDOUT_FILE, NoFigure, filled, tail_of
from tdbench.user_code import reason_of

LOOK_EVERY_S = 0.1
PATIENCE_S = 30.0  # for a script that is told to stop, before it is ended
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


def work(assignment: Assignment, link: Connection) -> None:
    """Run a trial as the main function of a process; a message over the link asks it to stop."""
    with suppress(OSError):
        os.setpgid(0, 0)
    os.environ.update(assignment.environment)

    def send(ended: Ended) -> None:
        with suppress(OSError):  # a driver that has gone needs no report
            link.send(ended)

    send(run_assignment(assignment, link.poll, send))
    if lab.leads_group(os.getpid()):
        os.killpg(0, signal.SIGKILL)  # and what the script has left running


def run_assignment(
    assignment: Assignment,
    should_stop: Callable[[], bool] = lambda: False,
    send: Callable[[Ended], None] = lambda ended: None,
) -> Ended:
    """Run a trial and return how it ended; what it came to stands in its folder then.

    Args:
        assignment: The trial.
        should_stop: Asked a few times a second.
        send: Told that the trial waits where a function, which nobody can ask to stop, is given up.
    """
    trial = OwnTrial(**assignment.config)
    job, values, seed = trial.job, trial.values, trial.seed
    digest, folder = assignment.digest, RunFolder(assignment.folder)
    try:
        if trial.changed():
            return Ended(digest, TrialState.KILLED, has_changed(trial))
        out = cleared(folder, job, assignment.fresh)
        folder.write_config({"command": job.name, "values": dict(values), "seed": seed})
        begun = time.perf_counter()
        if job.function is not None:
            metrics = call(job.function, trial, out, folder, lambda: give_up(should_stop, digest, send))
        else:
            ended = run(job, {**values, SEED: seed, OUT: str(out.resolve())}, folder, should_stop)
            if ended is not None:
                return Ended(digest, *ended)
            metrics = {one.name: one.figure(folder.path) for one in job.reads}
        if trial.changed():  # while it ran: nobody knows which it was
            return Ended(digest, TrialState.KILLED, has_changed(trial))
        wall_s = time.perf_counter() - begun
        folder.write_result(RunResult(TrialState.DONE, digest, seed, wall_s=wall_s, metrics=metrics))
    except NoFigure as error:
        return Ended(digest, TrialState.FAILED, str(error))
    except Exception as error:
        with suppress(OSError):
            traceback.print_exception(error)
        reason, full = reason_of(error), is_full_disk(error)
        state = TrialState.KILLED if full or isinstance(error, WriteError) else TrialState.FAILED
        return Ended(digest, state, reason, no_room=full)
    return Ended(digest, TrialState.DONE)


def has_changed(trial: OwnTrial) -> str:
    """Return why a trial is not run, or does not count."""
    return (
        f"{', '.join(trial.changed())} has changed since the sweep was planned; change it back, or take another --out"
    )


def cleared(folder: RunFolder, job: Job, fresh: bool) -> Path:
    """Return the folder of what the trial leaves, without figures of an earlier attempt; if `fresh`, empty."""
    out = folder / OUT_FOLDER
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    for one in job.reads:
        if one.source != STDOUT:
            with suppress(OSError):
                (folder / one.source).unlink(missing_ok=True)
    return out


def run(
    job: Job, values: Mapping[str, Any], folder: RunFolder, should_stop: Callable[[], bool]
) -> tuple[TrialState, str | None] | None:
    """Run a command to its end; return what it failed by, or None where it ended well."""
    environment = dict(os.environ)
    if job.threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(job.threads))
    words = filled(job.words, values)
    with open(folder / STDOUT_FILE, "wb") as stdout, open(folder / LOG, "ab") as log:
        try:
            process = subprocess.Popen(
                words,
                cwd=job.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            return TrialState.FAILED, f"{words[0]} cannot be run: {error.strerror or error}"
        if not wait(process, should_stop):
            return TrialState.WAITING, None
    code = process.returncode
    if code != 0:
        told = tail_of(folder / LOG, folder / STDOUT_FILE)
        what = f"exit code {code}" if code > 0 else cause_of_death(code)
        return TrialState.FAILED, f"{what}{told and f': {told}'}"
    return None


def wait(process: "subprocess.Popen[bytes]", should_stop: Callable[[], bool]) -> bool:
    """Wait for a process; return whether it ended by itself, and not because it was told to stop."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_EVERY_S)
            return True
        if should_stop():
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return False


def die_with_parent() -> None:
    """Let this process be killed when the one that started it ends, however it ends; Linux alone can do that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})


def call(function: bytes, trial: OwnTrial, out: Path, folder: RunFolder, watch: Callable[[], None]) -> dict[str, float]:
    """Return what a function reports; what it prints goes to the trial's log.

    Raises:
        NoFigure: It returns no figures.
    """
    import pickle

    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    threading.Thread(target=watch, daemon=True).start()
    if trial.job.threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(trial.job.threads))
    told = pickle.loads(function)(dict(trial.values), trial.seed, out.resolve())
    figures = dict(told) if isinstance(told, Mapping) else {"value": told}
    if not figures:
        raise NoFigure(f"{trial.job.name} must return its figures, a table of name to number, got {told!r}")
    for name, figure in figures.items():
        plain = getattr(figure, "item", lambda figure=figure: figure)()  # of NumPy and torch
        if isinstance(plain, bool) or not isinstance(plain, (int, float)) or not abs(plain) <= LARGEST:
            raise NoFigure(f"{trial.job.name} must return finite numbers, got {name} {plain!r}")
        figures[name] = float(plain)
    if trial.job.metric not in figures:
        told = ", ".join(map(str, figures))
        raise NoFigure(f"{trial.job.name} must return the metric {trial.job.metric}, got {told}; metric names another")
    return {str(name): figure for name, figure in figures.items()}


def give_up(should_stop: Callable[[], bool], digest: str, send: Callable[[Ended], None]) -> None:
    """Wait until this process is told to stop, and end it then, with what the user's function has started."""
    while not should_stop():
        time.sleep(LOOK_EVERY_S)
    send(Ended(digest, TrialState.WAITING))
    os.killpg(0, signal.SIGKILL)
