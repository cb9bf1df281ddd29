"""`ablate`: a sweep from what is asked for to its tables. Nothing here, or in this process, knows torch."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, overload

from tdbench.config.loading import Given
from tdbench.config.trust import trusting
from tdbench.errors import DataError, Interrupted
from tdbench.store.assignment import Log
from tdbench.store.files import folder_given, held, remove_unfinished
from tdbench.store.folders import SweepFolder
from tdbench.store.loggers.recording import SweepLog
from tdbench.store.progress import SweepObserver
from tdbench.store.reading import SweepRecord, read_sweep
from tdbench.sweep import lab
from tdbench.sweep.asked import Params, own_of, plan_sweep
from tdbench.sweep.audits import audit_values, check_auditable
from tdbench.sweep.execution import Execution
from tdbench.sweep.outlook import Outlook, outlook_of
from tdbench.sweep.own.plan import Function
from tdbench.sweep.points import Plan
from tdbench.sweep.report import write_report
from tdbench.sweep.runner import Sweep, Tables
from tdbench.sweep.same import same_sweep
from tdbench.sweep.slots import Slots

Watch = Callable[[Sweep, Slots], AbstractContextManager[SweepObserver]]


@contextmanager
def unwatched(sweep: Sweep, slots: Slots) -> Iterator[SweepObserver]:
    """Watch a sweep in silence."""
    yield SweepObserver()


@overload
def ablate(
    config: Given = None,
    param: Params = (),
    values: str | Sequence[str] = (),
    *,
    dry_run: Literal[False] = False,
    **arguments: Any,
) -> SweepRecord: ...


@overload
def ablate(
    config: Given = None,
    param: Params = (),
    values: str | Sequence[str] = (),
    *,
    dry_run: bool,
    **arguments: Any,
) -> SweepRecord | Outlook: ...


def ablate(
    config: Given | Function = None,
    param: Params = (),
    values: str | Sequence[str] = (),
    *,
    seeds: int | Sequence[int] | str | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    smallest: float | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    gpus: str | Sequence[str] | None = None,
    per_gpu: int = 1,
    trial_timeout: float | None = None,
    retry_failed: bool = False,
    fresh: bool = False,
    executor: str = "local",
    ray_address: str | None = None,
    log: str | Sequence[str] | None = None,
    slurm: str | Mapping[str, Any] | None = None,
    audit: bool = False,
    dry_run: bool = False,
    trust: bool = False,
    command: str | None = None,
    read: str | Sequence[str] = (),
    higher_is_better: bool | None = None,
    **settings: Any,
) -> SweepRecord | Outlook:
    """Vary a setting over values and paired seeds, run what is missing, and return the sweep with its tables.

    The arguments are those of `tdbench ablate`. A trial that fails is a row with its reason, and no exception.

    Args:
        config: An experiment or a run: a YAML file, a tree of keys, or a configuration; None: a fifth of the digits,
            10 epochs. Or a function of your own as the trials: `(values, seed, out)` to a figure or a table of them.
        param: What to vary: `{"block_size": [1, 3, 5]}`, several keys for a grid; or KEY, or KEY=VALUES, as text.
        values: VALUES as text, for each KEY of `param` that has none.
        seeds: `"3..20"`: 3, and up to 20 for a value that is undecided; how many; or which. None: as asked, or `3..10`.
        baseline: `none`, a swept value, or `off`.
        metric: What the verdicts are about, of the fields of `result.json` such as `test_error_pct` and `test_loss`.
        smallest: The smallest difference that matters, in per cent points; a value within it is `equivalent`.
        out: The sweep folder; None: one of its own under `runs/`.
        jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log, slurm, audit: `Execution`.
        dry_run: Run nothing; return the `Outlook`.
        trust: Let code run that a YAML file names and the arguments do not.
        command, read, higher_is_better: A script of your own as the trials: see `own.script`.
        **settings: Keys of the base as flags and `--set` take them: `model="resnet18"`, `epochs=5`.

    Raises:
        TdbenchError: Something the user can act on; what was done before is intact.
    """
    how = Execution(jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log, slurm, audit)
    own = own_of(command, read, higher_is_better)
    with lab.stand_ins(), trusting([param, values, settings], trust):
        plan = plan_sweep(config, param, values, seeds, baseline, settings, metric, smallest, own=own)
        sweep = open_sweep(plan, default_folder(plan) if out is None else folder_given(out), fresh=fresh)
        if dry_run:
            return look_ahead(sweep, how)
        run_missing(sweep, how)
    return read_sweep(sweep.folder.path)


def default_folder(plan: Plan) -> Path:
    """Return a folder of its own for each sweep, whatever its values and seeds, so that more of them join it."""
    names = (*plan.names(), *plan.keys, plan.digest)
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(("sweep", *names)))


def open_sweep(plan: Plan, path: Path, *, fresh: bool = False) -> Sweep:
    """Return the sweep in a folder, with what became of its trials; a `fresh` one may have other data and code.

    Raises:
        FolderError: The folder holds another sweep, or something else.
    """
    folder = SweepFolder(path)
    plan.check_out(path)
    return Sweep(same_sweep(plan, folder, fresh=fresh), folder)


def run_missing(
    sweep: Sweep,
    execution: Execution,
    *,
    watch: Watch = unwatched,
    tell: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tables:
    """Run what is missing and write all tables and pictures.

    Args:
        sweep: The sweep; its trials get their share of the threads.
        execution: How trials are run.
        watch: Makes what watches the sweep.
        tell: Told in a line what takes time before trials run, or that there is nothing to do.
        should_stop: Asked a few times a second; once true, the trials save and stop.

    Returns:
        The tables.

    Raises:
        Interrupted: `should_stop` said so, and there is something left to do.
        TdbenchError: Something is missing, or a file cannot be written; the trials are intact.
    """
    if execution.audit:
        check_auditable(sweep.plan)
    is_missing = bool(sweep.missing(execution.retry_failed, execution.fresh))
    slots = slots_for(sweep, execution) if is_missing or execution.audit else None
    executor = execution.executor_in(slots) if is_missing and slots is not None else None
    try:
        with held(sweep.folder.path):
            sweep.look_again()  # another process may have been at it meanwhile
            missing = sweep.missing(execution.retry_failed, execution.fresh)
            make_ready(sweep, missing, execution, slots, tell)
            with log_of(sweep, execution) as sweep_log:
                try:
                    if missing and slots is not None and executor is not None:
                        with watch(sweep, slots) as observer:
                            log = Log(sweep_log.names, sweep_log.group)
                            sweep.run(executor, missing, observer, should_stop, fresh=execution.fresh, log=log)
                    else:
                        tell(f"all {len(sweep.asked_for())} trials were run before; nothing to do")
                finally:
                    tables = sweep.tables()
                    sweep.write_tables(tables)
                write_report(sweep, tables)
                sweep_log.end(tables.summary)
    finally:
        if executor is not None:
            executor.close()
    if should_stop() and sweep.missing():
        raise Interrupted(f"{sweep.folder.path} keeps what is done, and the same command goes on from there")
    return tables


def log_of(sweep: Sweep, execution: Execution) -> SweepLog:
    """Return what tells the loggers of a sweep."""
    names, keys = execution.log or (), sweep.plan.keys
    return SweepLog(names, sweep.folder.path, keys, group=sweep.group, fresh=execution.fresh)


def make_ready(
    sweep: Sweep, missing: Sequence[str], execution: Execution, slots: Slots | None, tell: Callable[[str], None]
) -> None:
    """Check what is missing, make the folder the sweep's own, and audit its values where that is asked for."""
    if missing and slots is not None:
        if not sweep.plan.experiment.is_own:
            tell("checking the data, networks and sites of the trials ...")
        sweep.plan.check((sweep.plan.trials[digest] for digest in missing), slots)
    remove_unfinished(sweep.folder.path)
    sweep.folder.write_sweep(sweep.plan.tree())  # from here on the folder is this sweep's
    sweep.folder.write_contents(sweep.plan.contents())
    if execution.audit and slots is not None:
        audit_values(sweep, slots.environments[0], tell, fresh=execution.fresh)


def slots_for(sweep: Sweep, execution: Execution) -> Slots:
    """Return the places for a sweep's trials, which get their share of the threads; the lab's server is started."""
    slots = sweep.plan.slots(execution)
    sweep.plan = sweep.plan.with_threads(slots.threads)
    return slots


def to_run(sweep: Sweep, execution: Execution) -> tuple[list[str], list[str]]:
    """Return the trials that would run now, and those that it may come to."""
    missing = sweep.missing(execution.retry_failed, execution.fresh)
    return missing, list(sweep.records) if execution.fresh else sorted({*missing, *sweep.at_most()})


def look_ahead(sweep: Sweep, execution: Execution) -> Outlook:
    """Check the trials that would run, and say what the sweep would do.

    Raises:
        TdbenchError: The sweep would be refused.
    """
    if execution.audit:
        check_auditable(sweep.plan)
    missing, at_most = to_run(sweep, execution)
    left_s: tuple[float | None, float | None] = (0.0, 0.0)
    why_unknown = None
    if missing:
        slots = slots_for(sweep, execution)
        waiting, more = ([sweep.plan.trials[digest] for digest in digests] for digests in (missing, at_most))
        finished = [(sweep.plan.trials[digest], result.wall_s or 0.0) for digest, result in sweep.done().items()]
        try:
            sweep.plan.check(waiting, slots, [config for config, _ in finished])
            left_s = sweep.plan.times_left_s((waiting, more), finished, slots)
        except DataError as error:  # the plan stands without it
            left_s, why_unknown = (None, None), str(error)
    return outlook_of(sweep, missing, len(at_most), left_s, why_unknown)
