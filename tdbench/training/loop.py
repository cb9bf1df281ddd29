"""One run, from its start or its checkpoint to its result: epochs, checkpoints, interruption, the run folder."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, FolderError, Interrupted, RunFailed, TdbenchError, is_full_disk
from tdbench.store.files import held, remove_unfinished
from tdbench.store.folders import CHECKPOINT, RunFolder
from tdbench.store.progress import Observer
from tdbench.store.rows import RunResult, TrialState
from tdbench.training.checkpoint import load_checkpoint, restore, save_checkpoint, state_of
from tdbench.training.environment import describe_environment
from tdbench.training.matching import solve_match, with_knob
from tdbench.training.parallel import Ballot, Processes
from tdbench.training.run import Diverged, Run
from tdbench.training.trace import StepTrace
from tdbench.training.train import finished_result

LOOK_EVERY_S = 0.5  # how often the loss is read back from a device that works on its own
SLOWED = 3.0  # times the fastest steps of the run, from where on it is told


def run_to_end(
    config: RunConfig,
    folder: RunFolder,
    fresh: bool,
    observer: Observer,
    should_stop: Callable[[], bool],
    patience_s: float,
    processes: Processes,
    trace: Path | None,
) -> RunResult:
    """Do what `train` does where the folder does not hold the finished run."""
    first = processes.first
    if config.regularizer.match is not None:
        config = with_knob(config, first(lambda: matched(config, None if fresh else folder.read_config())))
    run = processes.together(lambda: Run(config, processes))
    processes.together(run.insertion.check_blocks)
    with ExitStack() as until_end:
        first(lambda: until_end.enter_context(held(folder.path, patience_s)))
        if run.contents != config.contents():
            raise ConfigError("your code has changed while the run was being made ready; start it again")
        # Somebody else may have been at the folder meanwhile.
        finished = first(lambda: finished_result(folder, config, fresh))
        if finished is not None:
            return finished
        state = first(lambda: None if fresh else load_checkpoint(folder / CHECKPOINT, run.digest))
        if state is not None:
            restore(run, state)
        if trace is not None:
            first(lambda: start_trace(run, trace, until_end))
        first(lambda: remove_unfinished(folder.path))  # a run that is refused changes nothing
        if fresh:
            first(folder.clear)
        run.distribute()
        return execute(run, folder, observer, should_stop)


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


def execute(run: Run, folder: RunFolder, observer: Observer, should_stop: Callable[[], bool]) -> RunResult:
    """Train to the end, saving each epoch; return the result that was written."""
    processes = run.processes
    environment = processes.first(lambda: write_beginning(run, folder))
    observer.started(run.facts, run.step, run.num_steps)
    status, error = TrialState.DONE, None
    try:
        run.check_evaluation()  # of the epoch that the checkpoint ends with
        while run.step < run.num_steps:
            train_epoch(run, folder, observer, should_stop)
            observer.evaluating(run.progress(run.steps_of_epoch()[0]))
            row = run.end_epoch()
            save(run, folder, also_soon=run.step == run.num_steps)
            observer.epoch_ended(row)
            run.check_evaluation()
        seen = run.evaluate_at_the_end()
        if seen is not None:
            outcome = seen.predictions._replace(classes=run.classes)
            run.processes.first(lambda: folder.write_predictions(outcome))
        run.validate()
        run.evaluate_re_estimated(lambda: stop_if_asked(run, folder, should_stop))
    except Diverged as divergence:
        status, error = TrialState.DIVERGED, str(divergence)
    except TdbenchError as failure:
        processes.first_failure(failure)
        raise
    except (Exception, SystemExit) as failure:  # the user's code may do anything
        error = processes.first_failure(failure).reason
        if processes.rank == 0 and not is_full_disk(
            failure
        ):  # which is no end of the run: it goes on when there is room
            with suppress(FolderError):  # the reason that counts is the failure's
                folder.write_result(run.result(TrialState.FAILED, error))
        raise RunFailed(error, f"in epoch {run.epoch}", bool(run.config.own_code())) from failure
    result = run.result(status, error)
    processes.first(lambda: write_end(run, folder, environment, result))
    return result


def write_beginning(run: Run, folder: RunFolder) -> dict[str, Any]:
    """Write what is known before the first step; return the environment."""
    environment = describe_environment(run.hardware, run.processes, run.config.own_code().values())
    environment["weights"] = run.facts.get("weights")
    folder.write_config(run.config.dump())
    folder.write_contents(run.contents, run.config.running_texts())
    folder.write_environment(environment)
    folder.write_metrics(run.rows)
    return environment


def write_end(run: Run, folder: RunFolder, environment: dict[str, Any], result: RunResult) -> None:
    """Write what is known after the last step; the result comes last, because with it the run is over."""
    graph = None if run.graph is None else run.graph.outcome
    run.graph = None  # and the memory that it keeps
    folder.write_environment(environment | {"data_wait_pct": run.clock.data_wait_pct(), "step_graph": graph})
    folder.write_result(result)


def train_epoch(run: Run, folder: RunFolder, observer: Observer, should_stop: Callable[[], bool]) -> None:
    """Train from the run's step to the end of its epoch, or of the run."""
    first, last = run.steps_of_epoch()
    begun = looked = time.perf_counter()
    earlier_s = run.epoch_s
    looks_always = run.hardware.device.type == "cpu" and run.processes.count == 1  # there a look costs nothing
    run.begin_steps()
    ballot = Ballot(run.processes)
    for number, (images, labels) in enumerate(run.batches.epoch(run.epoch, first, last), first):
        stop, look = ballot.any(should_stop(), time.perf_counter() - looked >= LOOK_EVERY_S)
        if stop:
            run.check_losses(number)
            save(run, folder)
            raise stopped(run, folder)
        run.train_step(images, labels, number)
        now = time.perf_counter()
        run.epoch_s = earlier_s + now - begun
        if look or looks_always:
            run.check_losses(number + 1)
        if look:
            looked = now
            observer.progressed(run.progress(number + 1))
            if not run.has_slowed and (times := run.clock.times_slower()) >= SLOWED:
                run.has_slowed = True
                observer.slowed(times)
    run.check_losses(last)
    run.epoch_s = earlier_s + time.perf_counter() - begun  # a GPU may have had much to finish


def stop_if_asked(run: Run, folder: RunFolder, should_stop: Callable[[], bool]) -> None:
    """Raise Interrupted once a stop is asked for, of whichever process; what was trained is saved already."""
    if any(run.processes.any(should_stop())):
        raise stopped(run, folder)


def stopped(run: Run, folder: RunFolder) -> Interrupted:
    """Return what says that a run has stopped, and that it goes on."""
    done = f"stopped after step {run.step} of {run.num_steps}"
    return Interrupted(f"{done}; {folder.path} keeps it, and the same command goes on from there")


def save(run: Run, folder: RunFolder, also_soon: bool = True) -> None:
    """Write a checkpoint, and the rows of the finished epochs; the time that it takes is the run's.

    Args:
        run: The run.
        folder: Its folder.
        also_soon: Write a checkpoint also where the last one is younger than the run is to keep it.
    """
    begun = time.perf_counter()
    (is_due,) = run.processes.any(begun - run.saved >= run.config.training.checkpoint_every_s)
    state = state_of(run) if also_soon or is_due else None

    def write() -> None:
        if state is not None:
            save_checkpoint(folder / CHECKPOINT, run.digest, state)
        folder.write_metrics(run.rows)

    run.processes.first(write)
    now = time.perf_counter()
    run.wall_s += now - begun
    if state is not None:
        run.saved = now
