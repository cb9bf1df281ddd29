"""`train`: one run, in a folder. A run that is finished already is told from its folder, before torch is imported."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tdbench.config import Given, RunConfig, load_config
from tdbench.config.contents import as_far_as_known, changes, differing, shortened
from tdbench.config.tree import flatten, foreign_method, named_as_here
from tdbench.errors import FolderError, Interrupted, RunFailed, TdbenchError, line_of
from tdbench.store.assignment import Log
from tdbench.store.files import folder_given
from tdbench.store.folders import CHECKPOINT, SWEEP, RunFolder
from tdbench.store.loggers import loggers_named
from tdbench.store.loggers.recording import RunLog
from tdbench.store.progress import Observer
from tdbench.store.rows import RunResult, TrialState
from tdbench.training.parallel import ALONE, Processes
from tdbench.user_code import short_name


def train(
    config: Given = None,
    out: str | Path | None = None,
    *,
    fresh: bool = False,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    patience_s: float = 0,
    processes: Processes = ALONE,
    torch_profile: str | Path | None = None,
    log: str | Sequence[str] | None = None,
    trust: bool = False,
    before_loading: Callable[[], None] = lambda: None,
    **settings: Any,
) -> RunResult:
    """Train one network, or go on where an earlier call on the same folder stopped.

    Seeds torch's global generator, sets its threads and its determinism.

    Args:
        config: The run: a configuration, a tree of its keys, a YAML file, or None for the defaults.
        out: The run folder; made where it is missing, written to only after everything else proved usable. None: a
            folder of its own under `runs/`.
        fresh: Delete the run that the folder holds and start over.
        observer: Told of the progress.
        should_stop: Asked after each step; once true, the run is saved and `Interrupted` raised.
        patience_s: How long to wait for another process that holds the folder.
        processes: This one and those that train with it, all of which call this; the first alone uses the folder.
        torch_profile: A folder for a Chrome trace of ten steps.
        log: Loggers that take the run down too, such as `wandb,tensorboard`; one that fails costs a note.
        trust: Let code run that a YAML file names and the settings do not.
        before_loading: Called where there is something to train, before torch is imported.
        **settings: Keys as the command line's flags and `--set` take them: `regularizer="dropblock"`, `lr=0.05`,
            `block_size=3`, `**{"schedule.name": "constant"}`.

    Returns:
        What `result.json` holds; at once, where the folder holds the finished run.

    Raises:
        TdbenchError: Something the user can act on; what was saved before is intact.
    """
    names = loggers_named(log)
    config = load_config(config, settings, trust=trust)
    folder = RunFolder(default_folder(config) if out is None else folder_given(out))
    config.check_out(folder.path)
    finished = processes.first(lambda: finished_result(folder, config, fresh))
    if finished is not None:
        return finished
    config.contents()  # what cannot be read is told at once
    before_loading()
    from tdbench.training.loop import run_to_end

    trace = None if torch_profile is None else Path(torch_profile)
    seen = with_loggers(observer or Observer(), Log(names if processes.rank == 0 else ()), config, folder.path)
    run = partial(run_to_end, config, folder, fresh, seen, should_stop, patience_s, processes, trace)
    return heard_of(run, seen, config.seed)


def with_loggers(observer: Observer, log: Log, config: RunConfig, folder: Path) -> Observer:
    """Return an observer of a run that loggers hear of too."""
    if not log.names:
        return observer
    return RunLog(
        log.names,
        observer,
        folder=folder,
        name=default_folder(config).name,
        digest=config.digest(),
        settings=flatten(config.dump()),
        group=log.group,
    )


def heard_of(run: Callable[[], RunResult], observer: Observer, seed: int) -> RunResult:
    """Return what a run returns; its observer hears how it ended, whichever way that is."""
    try:
        result = run()
    except BaseException as error:
        observer.ended(ending_of(error, seed))
        raise
    observer.ended(result)
    return result


def ending_of(error: BaseException, seed: int) -> RunResult:
    """Return how a run ended that raised: it failed, was stopped, or was kept from going on."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return RunResult(TrialState.WAITING, None, seed)
    if isinstance(error, RunFailed):
        return RunResult(TrialState.FAILED, None, seed, error=error.reason)
    return RunResult(TrialState.KILLED, None, seed, error=line_of(error))


def default_folder(config: RunConfig) -> Path:
    """Return a folder of its own for each configuration, so that the same command finds its run again."""
    names = (short_name(config.data.name), short_name(config.model.name), short_name(config.regularizer.name))
    parts = (*names, f"seed{config.seed}", config.digest())
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(parts))


def finished_result(folder: RunFolder, config: RunConfig, fresh: bool = False) -> RunResult | None:
    """Return the result in the folder if the run is over; None if it is to be run, or to be run again.

    Raises:
        FolderError: The folder holds another run, or something else.
    """
    if (folder / SWEEP).exists():
        raise FolderError(f"{folder.path} holds a sweep, no run; take another --out")
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
    tree = named_as_here(tree, config)
    if why := foreign_method(tree, config):
        raise FolderError(f"{folder.path} holds another run: {why}; take another --out, or --fresh to replace it")
    try:
        other = RunConfig.model_validate(tree)
    except (ValueError, TdbenchError) as error:
        raise foreign from error
    way_out = "take another --out, or --fresh to replace it"
    if why := difference(config, other):
        raise FolderError(f"{folder.path} holds another run: {why}; {way_out}")
    before = folder.read_contents()
    now = as_far_as_known(config.contents(), before)
    result = folder.read_result()
    is_over = result is not None and result.status is not TrialState.FAILED
    keeps_something = is_over or (folder / CHECKPOINT).exists()  # else it was stopped early, and nothing is mixed
    if before is not None and keeps_something and (changed := changes(before, now)):
        raise FolderError(f"{folder.path} holds a run on other data or of other code: {shortened(changed)}; {way_out}")
    if result is not None and is_over and result.digest != config.digest(now):
        raise FolderError(
            f"{folder.path} holds a run on other data, of other code of yours, or of another tdbench; {way_out}"
        )
    return result if is_over else None


def difference(config: RunConfig, other: RunConfig) -> str:
    """Return in words how a configuration differs from the one in a folder; empty where it does not."""
    here, there = config.settings(), other.settings()
    keys = [key for key in here | there if here.get(key) != there.get(key)]
    why = shortened(differing(here, there))
    if keys and set(keys) <= {"training.epochs", "training.max_steps"}:
        why += " (its schedules are scaled to its length, so that a run cannot be made longer)"
    return why
