"""One run, from its start or its checkpoint to its result: epochs, checkpoints, interruption, the run folder."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tdbench.config import RunConfig
from tdbench.errors import FolderError, Interrupted, TdbenchError
from tdbench.results.store import CHECKPOINT, RunFolder, held
from tdbench.training.checkpoint import load_checkpoint, restore, save_checkpoint, state_of
from tdbench.training.environment import describe_environment
from tdbench.training.matching import solve_match, with_knob
from tdbench.training.parallel import ALONE, Processes
from tdbench.training.run import Diverged, Progress, Run
from tdbench.training.trace import StepTrace

TRIES_AGAIN = "; the same command tries again"  # what a sweep does not do unasked
LOOK_EVERY_S = 0.5  # how often the loss is read back from a device that works on its own


class Observer:
    """Watches a run; this one does nothing."""

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        """Hear what runs where, and how many of its steps were done before."""

    def progressed(self, progress: Progress) -> None:
        """Hear how far the run is, about twice a second."""

    def evaluating(self, progress: Progress) -> None:
        """Hear that the training steps of an epoch are done and its evaluation begins."""

    def epoch_ended(self, row: dict[str, Any]) -> None:
        """Hear the row that an epoch gave, with the columns of `metrics.csv`."""


def train(
    config: RunConfig,
    out: Path,
    *,
    fresh: bool = False,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    patience_s: float = 0,
    processes: Processes = ALONE,
    trace: Path | None = None,
) -> dict[str, Any]:
    """Train one network, or go on where an earlier call on the same folder stopped.

    Seeds torch's global generator, sets its threads and its determinism.

    Args:
        config: The run.
        out: The run folder; made where it is missing, written to only after everything else proved usable.
        fresh: Delete the run that the folder holds and start over.
        observer: Told of the progress.
        should_stop: Asked after each step; once true, the run is saved and `Interrupted` raised.
        patience_s: How long to wait for another process that holds the folder.
        processes: This one and those that train with it, all of which call this; the first alone uses the folder.
        trace: A folder for a Chrome trace of ten steps.

    Returns:
        The fields of `result.json`; at once, where the folder holds the finished run.

    Raises:
        TdbenchError: Something the user can act on; what was saved before is intact.
    """
    folder, first = RunFolder(out), processes.first
    finished = first(lambda: finished_result(folder, config, fresh))
    if finished is not None:
        return finished
    if config.regularizer.match is not None:
        config = with_knob(config, first(lambda: matched(config, None if fresh else folder.read_config())))
    run = processes.together(lambda: Run(config, processes))
    processes.together(run.insertion.check_blocks)
    with ExitStack() as until_end:
        first(lambda: until_end.enter_context(held(out, patience_s)))
        # Somebody else may have been at the folder meanwhile.
        finished = first(lambda: finished_result(folder, config, fresh))
        if finished is not None:
            return finished
        state = first(lambda: None if fresh else load_checkpoint(folder / CHECKPOINT, config.digest()))
        if state is not None:
            restore(run, state)
        if trace is not None:
            first(lambda: start_trace(run, trace, until_end))
        if fresh:
            first(folder.clear)
        run.distribute()
        return execute(run, folder, observer or Observer(), should_stop)


def matched(config: RunConfig, begun: dict[str, Any] | None) -> Any:
    """Return the solved value of the strength knob: as it was when the run began, or by a calibration.

    Raises:
        ConfigError: The share that is asked for cannot be reached.
    """
    knob = str(config.regularizer.strength_knob)
    return getattr(solve_match(config).regularizer, knob) if begun is None else begun["regularizer"][knob]


def start_trace(run: Run, folder: Path, until_end: ExitStack) -> None:
    """Have ten of the run's steps recorded.

    Raises:
        ConfigError: It has too few left.
        FolderError: The folder cannot be made.
    """
    run.trace = until_end.enter_context(StepTrace(folder, run.hardware.device, run.num_steps - run.step))


def finished_result(folder: RunFolder, config: RunConfig, fresh: bool = False) -> dict[str, Any] | None:
    """Return the result in the folder if the run is over; None if it is to be run, or to be run again.

    Raises:
        FolderError: The folder holds another run, or something else.
    """
    tree = folder.read_config()
    if tree is None:
        if folder.holds_run_files():
            raise FolderError(
                f"{folder.path} holds {' '.join(folder.files())} but no config.yaml of a run; take another --out"
            )
        return None
    foreign = FolderError(f"{folder.path} holds a config.yaml that is no run's; take another --out")
    if not {"data", "model", "regularizer"} <= set(tree) <= set(RunConfig.model_fields):
        raise foreign
    if fresh:  # a run of another release, whose keys have changed, can be replaced too
        return None
    try:
        other = RunConfig.model_validate(tree)
    except (ValueError, TdbenchError) as error:
        raise foreign from error
    if other.digest() != config.digest():
        here, there = config.identity(), other.identity()
        keys = [key for key in here | there if here.get(key) != there.get(key)]
        differences = [f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys]
        why = "; ".join(differences[:4]) or "it was made by another release of tdbench"
        raise FolderError(f"{folder.path} holds another run: {why}; take another --out, or --fresh to replace it")
    result = folder.read_result()
    if result is not None and result["digest"] != config.digest():
        raise FolderError(
            f"{folder.path} holds a run of another version of the model's or regularizer's file, or of tdbench; take "
            "another --out, or --fresh to replace it"
        )
    return result if result is not None and result["status"] != "failed" else None


def execute(run: Run, folder: RunFolder, observer: Observer, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Train to the end, saving each epoch; return the result that was written."""
    processes = run.processes
    processes.first(lambda: write_beginning(run, folder))
    observer.started(run.facts, run.step, run.num_steps)
    status, error = "done", None
    try:
        run.check_evaluation()  # of the epoch that the checkpoint ends with
        while run.step < run.num_steps:
            train_epoch(run, folder, observer, should_stop)
            observer.evaluating(run.progress(run.steps_of_epoch()[0]))
            row = run.end_epoch()
            save(run, folder)
            observer.epoch_ended(row)
            run.check_evaluation()
    except Diverged as divergence:
        status, error = "diverged", str(divergence)
    except TdbenchError as failure:
        processes.first_failure(failure)
        raise
    except Exception as failure:
        _, error = processes.first_failure(failure)
        if processes.rank == 0:
            with suppress(FolderError):  # the reason that counts is the failure's
                folder.write_result(run.result("failed", error))
        raise TdbenchError(f"the run failed in epoch {run.epoch}: {error}{TRIES_AGAIN}") from failure
    result = run.result(status, error)
    processes.first(lambda: write_end(run, folder, result))
    return result


def write_beginning(run: Run, folder: RunFolder) -> None:
    """Write what is known before the first step."""
    folder.write_config(run.config.dump())
    folder.write_environment(describe_environment(run.hardware, run.processes))
    folder.write_metrics(run.rows)


def write_end(run: Run, folder: RunFolder, result: dict[str, Any]) -> None:
    """Write what is known after the last step; the result comes last, because with it the run is over."""
    folder.write_environment(describe_environment(run.hardware, run.processes, run.clock.data_wait_pct()))
    folder.write_result(result)


def train_epoch(run: Run, folder: RunFolder, observer: Observer, should_stop: Callable[[], bool]) -> None:
    """Train from the run's step to the end of its epoch, or of the run."""
    first, last = run.steps_of_epoch()
    begun = looked = time.perf_counter()
    earlier_s = run.epoch_s
    looks_always = run.hardware.device.type == "cpu" and run.processes.count == 1  # there a look costs nothing
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(run.epoch, first, last), first):
        stop, look = run.processes.any(should_stop(), time.perf_counter() - looked >= LOOK_EVERY_S)
        if stop:
            run.check_losses(number)
            save(run, folder)
            done = f"stopped after step {run.step} of {run.num_steps}"
            raise Interrupted(f"{done}; {folder.path} keeps it, and the same command goes on from there")
        run.train_step(images, labels, number)
        now = time.perf_counter()
        run.epoch_s = earlier_s + now - begun
        if look or looks_always:
            run.check_losses(number + 1)
        if look:
            looked = now
            observer.progressed(run.progress(number + 1))
    run.check_losses(last)


def save(run: Run, folder: RunFolder) -> None:
    """Write a checkpoint, and the rows of the finished epochs."""
    state = state_of(run)

    def write() -> None:
        save_checkpoint(folder / CHECKPOINT, run.config.digest(), state)
        folder.write_metrics(run.rows)

    run.processes.first(write)
