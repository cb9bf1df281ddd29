"""`ablate`: a sweep from what is asked for to its tables. Nothing here, or in this process, knows torch."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, overload

from tdbench.config.contents import look_anew
from tdbench.config.loading import Given, file_given, nested, resolve_key, tree_of
from tdbench.config.trust import trusting
from tdbench.errors import ConfigError, DataError, Interrupted
from tdbench.regularizers.registry import find_method
from tdbench.store.files import folder_given, held, remove_unfinished
from tdbench.store.folders import SweepFolder
from tdbench.store.progress import SweepObserver
from tdbench.store.reading import SweepRecord, read_sweep
from tdbench.sweep import lab
from tdbench.sweep.execution import Execution
from tdbench.sweep.experiment import Experiment, from_flags, read_experiment, with_settings
from tdbench.sweep.keys import METHOD
from tdbench.sweep.outlook import Outlook, outlook_of
from tdbench.sweep.plan import Plan, make_plan, same_sweep, shared_contents
from tdbench.sweep.preflight import check_trials, times_left_s
from tdbench.sweep.report import write_report
from tdbench.sweep.runner import Sweep, Tables
from tdbench.sweep.slots import Slots, plan_slots
from tdbench.user_code import short_name

# What a sweep runs on that names no data: few images, so that regularization matters, and a verdict within minutes; and
# one that names no method either drops so much that there is something to decide.
QUICK = {"data.train_fraction": 0.2, "training.epochs": 10, "training.batch_size": 32, "training.eval_every": 10}
STRONG = {"regularizer.drop_ratio": 0.3}
Watch = Callable[[Sweep, Slots], AbstractContextManager[SweepObserver]]


@contextmanager
def unwatched(sweep: Sweep, slots: Slots) -> Iterator[SweepObserver]:
    """Watch a sweep in silence."""
    yield SweepObserver()


Params = str | Sequence[str] | Mapping[str, Sequence[Any] | None]


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
    config: Given = None,
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
    log: str | None = None,
    dry_run: bool = False,
    trust: bool = False,
    **settings: Any,
) -> SweepRecord | Outlook:
    """Vary a setting over values and paired seeds, run what is missing, and return the sweep with its tables.

    The arguments are those of `tdbench ablate`. A trial that fails is a row with its reason, and no exception.

    Args:
        config: An experiment or a run's configuration, or None: a YAML file, a tree of keys, or a configuration. Where
            it is None and no data are named, a fifth of the digits is trained on for 10 epochs in batches of 32.
        param: What to vary: `{"block_size": [1, 3, 5]}`, several keys for a grid; or KEY, or KEY=VALUES, as text.
        values: VALUES as text, for each KEY of `param` that has none.
        seeds: `"3..20"`: a first look at 3 seeds, and more of them for each value that is not decided, up to 20; or how
            many, or which. None: what the experiment says, else `3..10`.
        baseline: `none`, a swept value, or `off`.
        metric: What the verdicts are about, of the fields of `result.json` of which more or less is better, such as
            `test_error_pct`, `test_error_pct_bn`, `test_loss` or `train_img_per_s`.
        smallest: The smallest difference that matters, in per cent points; a value within it is `equivalent`.
        out: The sweep folder; None: one of its own under `runs/`.
        jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log: See `Execution`.
        dry_run: Run nothing; return the `Outlook`: the trials, and the time that they will take.
        trust: Let code run that a YAML file names and the arguments do not.
        **settings: Keys of the base as flags and `--set` take them: `model="resnet18"`, `epochs=5`.

    Raises:
        TdbenchError: Something the user can act on; what was done before is intact.
    """
    named = gpus.split(",") if isinstance(gpus, str) else gpus
    execution = Execution(
        *(jobs, None if named is None else tuple(named), per_gpu, trial_timeout, retry_failed, fresh),
        *(executor, ray_address, log),
    )
    with lab.stand_ins(), trusting([param, values, settings], trust):
        plan = plan_sweep(config, param, values, seeds, baseline, settings, metric, smallest)
        sweep = open_sweep(plan, default_folder(plan) if out is None else folder_given(out))
        if dry_run:
            return look_ahead(sweep, execution)
        run_missing(sweep, execution)
    return read_sweep(sweep.folder.path)


def plan_sweep(
    config: Given,
    param: Params,
    values: str | Sequence[str],
    seeds: int | Sequence[int] | str | None,
    baseline: str | None,
    settings: Mapping[str, Any],
    metric: str | None = None,
    smallest: float | None = None,
    before_lab: Callable[[], None] = lambda: None,
) -> Plan:
    """Return the plan of what is asked for; see `ablate`. `before_lab` is called before a user's file is looked at.

    Raises:
        ConfigError: Something of it is unknown, out of range, or does not fit together.
    """
    given = dict(settings)
    if "seed" in given:
        raise ConfigError(f"seed must be left out: --seeds says which seeds run, got {given['seed']}")
    look_anew()
    experiment = read_experiment(config)
    base = experiment.base if experiment is not None else tree_of(config)
    if config is None and not {"data", "data.name"} & {*given, *param_keys(param)}:
        swept = {key_of(key) for key in param_keys(param)}
        is_plain = swept <= {"regularizer.block_size"} and not any("regularizer" in key_of(key) for key in given)
        base = nested(QUICK | STRONG if is_plain else QUICK)
    asked = from_flags(experiment, base, param, values, seeds, baseline, metric, smallest)
    lab.declare_user_methods(methods_named(asked, given), before_lab)
    return make_plan(with_settings(asked, given, file_given(config)))


def key_of(name: str) -> str:
    """Return the dotted key that a name means, of TargetDrop's; what is none is told later."""
    with suppress(ConfigError):
        return resolve_key(name, find_method("targetdrop"))
    return name


def param_keys(param: Params) -> set[str]:
    """Return the keys that are varied."""
    return {one.partition("=")[0] for one in ([param] if isinstance(param, str) else param)}


def methods_named(asked: Experiment, given: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the methods that an experiment and settings name, before any of it is checked."""
    for settings in (given, asked.base, *asked.arms.values()):
        section = settings.get("regularizer")
        yield section.get("name") if isinstance(section, Mapping) else section
        yield settings.get(METHOD)
    for key in ("regularizer", METHOD):
        yield from asked.sweep.get(key, ())


def default_folder(plan: Plan) -> Path:
    """Return a folder of its own for each sweep, whatever its values and seeds, so that more of them join it."""
    names = (plan.base.data.name, short_name(plan.base.model.name), *plan.keys, plan.digest)
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(("sweep", *names)))


def open_sweep(plan: Plan, path: Path) -> Sweep:
    """Return the sweep in a folder, with what became of its trials.

    Raises:
        FolderError: The folder holds another sweep, or something else.
    """
    folder = SweepFolder(path)
    plan.base.check_out(path)
    return Sweep(same_sweep(plan, folder), folder)


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
    slots = executor = None
    if sweep.missing(execution.retry_failed, execution.fresh):
        slots = slots_for(sweep, execution)
        executor = execution.executor_in(slots)
    try:
        with held(sweep.folder.path):
            sweep.look_again()  # another process may have been at it meanwhile
            missing = sweep.missing(execution.retry_failed, execution.fresh)
            if missing:
                tell("checking the data, networks and sites of the trials ...")
                check_trials(sweep.plan.trials[digest] for digest in missing)
            remove_unfinished(sweep.folder.path)
            sweep.folder.write_sweep(sweep.plan.tree())  # from here on the folder is this sweep's
            sweep.folder.write_contents(shared_contents(sweep.plan.experiment, sweep.plan.base))
            try:
                if missing and slots is not None and executor is not None:
                    with watch(sweep, slots) as observer:
                        sweep.run(executor, missing, observer, should_stop, fresh=execution.fresh, log=execution.log)
                else:
                    tell(f"all {len(sweep.asked_for())} trials were run before; nothing to do")
            finally:
                tables = sweep.tables()
                sweep.write_tables(tables)
            write_report(sweep, tables)
    finally:
        if executor is not None:
            executor.close()
    if should_stop() and sweep.missing():
        raise Interrupted(f"{sweep.folder.path} keeps what is done, and the same command goes on from there")
    return tables


def slots_for(sweep: Sweep, execution: Execution) -> Slots:
    """Return the places for a sweep's trials, which get their share of the threads; the lab's server is started."""
    lab.start()
    slots = plan_slots(sweep.plan.base.hardware, execution.jobs, execution.gpus, execution.per_gpu)
    sweep.plan = sweep.plan.with_threads(slots.threads)
    return slots


def look_ahead(sweep: Sweep, execution: Execution) -> Outlook:
    """Check the trials that would run, and say what the sweep would do.

    Raises:
        TdbenchError: The sweep would be refused.
    """
    missing = sweep.missing(execution.retry_failed, execution.fresh)
    at_most = list(sweep.records) if execution.fresh else sorted({*missing, *sweep.at_most()})
    left_s: tuple[float | None, float | None] = (0.0, 0.0)
    why_unknown = None
    if missing:
        slots = slots_for(sweep, execution)
        waiting, more = ([sweep.plan.trials[digest] for digest in digests] for digests in (missing, at_most))
        finished = [(sweep.plan.trials[digest], result.wall_s or 0.0) for digest, result in sweep.done().items()]
        try:
            check_trials(waiting, [config for config, _ in finished])
            left_s = times_left_s((waiting, more), finished, len(slots.environments))
        except DataError as error:  # the plan stands without it
            left_s, why_unknown = (None, None), str(error)
    return outlook_of(sweep, missing, len(at_most), left_s, why_unknown)
