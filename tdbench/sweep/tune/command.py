"""`tune`: a search from what is asked for to its tables, and the confirmation of what it found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from tdbench.config import build_config
from tdbench.config.contents import look_anew
from tdbench.config.loading import Given, file_given, nested, read_yaml, tree_of
from tdbench.config.trust import trusting
from tdbench.errors import ConfigError, FolderError, Interrupted
from tdbench.store.assignment import Log
from tdbench.store.files import folder_given, held, remove_unfinished
from tdbench.store.folders import CANDIDATES, CONFIRM, IMPORTANCE
from tdbench.store.loggers.recording import SweepLog, group_of
from tdbench.store.progress import SweepObserver
from tdbench.store.reading import SweepRecord, read_sweep, read_table
from tdbench.sweep import lab
from tdbench.sweep.ablate import run_missing
from tdbench.sweep.asked import QUICK
from tdbench.sweep.execution import Execution
from tdbench.sweep.preflight import check_trials
from tdbench.sweep.runner import Sweep, Tables
from tdbench.sweep.slots import Slots
from tdbench.sweep.tune.asked import Asked, TunePlan, asked_of, plan_tune
from tdbench.sweep.tune.confirming import check_design, confirmation
from tdbench.sweep.tune.folder import JOURNAL, TUNE_TEXT, TuneFolder, check_same
from tdbench.sweep.tune.outlook import SearchOutlook, look_ahead
from tdbench.sweep.tune.report import write_importance, write_text
from tdbench.sweep.tune.search import Search

if TYPE_CHECKING:
    import pandas

Watch = Callable[[Search, Slots], AbstractContextManager[SweepObserver]]
Params = str | Sequence[str] | Mapping[str, Any]


@contextmanager
def unwatched(search: Search, slots: Slots) -> Iterator[SweepObserver]:
    """Watch a search in silence."""
    yield SweepObserver()


@dataclass(frozen=True)
class TuneRecord:
    """A search, finished or not.

    Attributes:
        path: Its folder.
        asked: What was asked for, as `tune.yaml` holds it.
    """

    path: Path
    asked: dict[str, Any]

    @cached_property
    def candidates(self) -> "pandas.DataFrame":
        """A row per candidate, with the columns of `candidates.csv`."""
        return read_table(self.path / CANDIDATES)

    @cached_property
    def importance(self) -> "pandas.DataFrame":
        """A row per knob, with the share of the variation that it explains."""
        return read_table(self.path / IMPORTANCE)

    @cached_property
    def confirmed(self) -> SweepRecord:
        """The sweep that confirms what was found."""
        return read_sweep(self.path / CONFIRM)

    def _repr_html_(self) -> str:
        return self.candidates.to_html(index=False)


@overload
def tune(
    config: Given = None, param: Params = (), *, dry_run: Literal[False] = False, **arguments: Any
) -> TuneRecord: ...


@overload
def tune(
    config: Given = None, param: Params = (), *, dry_run: bool, **arguments: Any
) -> TuneRecord | SearchOutlook: ...


def tune(
    config: Given = None,
    param: Params = (),
    *,
    trials: int | None = None,
    search_seeds: int | None = None,
    sampler: str | None = None,
    sampler_seed: int | None = None,
    budget: str | None = None,
    tune_baseline: Params = (),
    confirm: int | None = None,
    confirm_seeds: str | None = None,
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
    dry_run: bool = False,
    trust: bool = False,
    **settings: Any,
) -> TuneRecord | SearchOutlook:
    """Search a method's settings on held-out images, and confirm the best; the same call again goes on.

    Args:
        config: A run's configuration, or a `tune.yaml`, or None: a YAML file, a tree of keys, or a configuration.
        param: What to search: `{"drop_ratio": "0.05..0.6", "block_size": [1, 3, 5, 7]}`, or KEY, or KEY=VALUES, as
            text; nothing: the method's own knobs, as they declare it.
        trials: Candidates, all calls together; None: 40.
        search_seeds: Runs of each candidate; None: 2.
        sampler, sampler_seed: How candidates are chosen: `tpe`, `gp` or `random`; and from which seed.
        budget: Time for the search, all calls together: `4h`, `30m`.
        tune_baseline: As `param`, of the baseline's own knobs, which then gets as many candidates.
        confirm: How many of the best candidates are confirmed beside the default; 0: none is.
        confirm_seeds: The design of the confirmation: `5..20`.
        out: The folder; None: one of its own under `runs/`.
        jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log, slurm: `Execution`.
        dry_run: Run nothing; return the `SearchOutlook`.
        trust: Let code run that a YAML file names and the arguments do not.
        **settings: Keys of the run as flags and `--set` take them.

    Raises:
        TdbenchError: Something the user can act on; what was done before is intact.
    """
    execution = Execution(jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log, slurm)
    flags: dict[str, Any] = {"trials": trials, "search_seeds": search_seeds, "sampler": sampler, "confirm": confirm}
    flags |= {"sampler_seed": sampler_seed, "budget": budget, "confirm_seeds": confirm_seeds}
    with lab.stand_ins(), trusting([param, settings], trust):
        plan = plan_search(config, param, tune_baseline, flags, settings)
        search = open_search(plan, plan.default_folder() if out is None else folder_given(out), fresh=fresh)
        if dry_run:
            return look_ahead(search, execution)
        run_search(search, execution)
        confirm_found(search, execution)
    return TuneRecord(search.folder.path, search.folder.read_asked() or {})


def plan_search(
    config: Given,
    param: Params,
    tune_baseline: Params,
    flags: Mapping[str, Any],
    settings: Mapping[str, Any],
    before_lab: Callable[[], None] = lambda: None,
) -> TunePlan:
    """Return the plan of what is asked for; see `tune`. `before_lab` is called before a user's file is looked at.

    Raises:
        ConfigError: Something of it is unknown, out of range, or does not fit together; or Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise ConfigError('tune needs optuna, which is not installed: pip install "tdbench[tune]"')
    if "seed" in settings:
        raise ConfigError(f"seed must be left out: --search-seeds says how many run, got {settings['seed']}")
    look_anew()
    tree: dict[str, Any] = read_yaml(Path(path)) if (path := file_given(config)) is not None else tree_of(config)
    asked = tree if set(tree) <= set(Asked.model_fields) and tree else {"base": tree}
    if config is None and not {"data", "data.name"} & set(settings):
        asked = {"base": nested(QUICK)}
    names = [settings.get(key) for key in ("regularizer", "regularizer.name")]
    section = asked.get("base", {}).get("regularizer")
    names.append(section.get("name") if isinstance(section, Mapping) else None)
    lab.declare_user_methods(names, before_lab)
    base = build_config(dict(asked.get("base", {})), settings, path)
    given = {"base": base.model_dump(mode="json", exclude_unset=True)}
    given |= {name: value for name, value in flags.items() if value is not None}
    given |= {name: specs(one) for name, one in (("param", param), ("tune_baseline", tune_baseline)) if one}
    return plan_tune(asked_of({**asked, **given}))


def specs(given: Params) -> dict[str, Any]:
    """Return key to range or values, as text, or None.

    Raises:
        ConfigError: A key stands there twice.
    """
    if isinstance(given, Mapping):
        return dict(given)
    pairs = [one.partition("=") for one in ([given] if isinstance(given, str) else given)]
    found = {key.strip(): text if equals else None for key, equals, text in pairs}
    if len(found) < len(pairs):
        raise ConfigError(f"--param must name each parameter once, got {', '.join(key for key, _, _ in pairs)}")
    return found


def open_search(plan: TunePlan, path: Path, *, fresh: bool = False) -> Search:
    """Return the search in a folder, with what became of its candidates.

    Raises:
        FolderError: The folder holds another search, or something else.
    """
    folder = TuneFolder(path)
    plan.base.check_out(path)
    check_same(plan, folder)
    if not fresh:
        check_design(plan, folder)
    return Search(plan, folder, fresh=fresh)


def run_search(
    search: Search,
    execution: Execution,
    *,
    watch: Watch = unwatched,
    tell: Callable[[str], None] = lambda line: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run what is left of a search, and write its tables.

    Raises:
        Interrupted: `should_stop` said so, and there is something left to do.
        TdbenchError: Something is missing, or a file cannot be written; what was done is intact.
    """
    plan, folder = search.plan, search.folder
    if search.is_over(execution.retry_failed):
        tell(f"all {search.num_over()} candidates were run before")
        finish(search)
        return
    slots = slots_for(search, execution)
    executor = execution.executor_in(slots)
    try:
        with held(folder.path):
            if execution.fresh:
                (folder / JOURNAL).unlink(missing_ok=True)
            search.reopen(fresh=execution.fresh)  # another process may have been at it meanwhile
            tell("checking the data, the network and the sites ...")
            check_trials([plan.base, plan.baseline], slots)
            remove_unfinished(folder.path)
            folder.write_asked(plan)  # from here on the folder is this search's
            with SweepLog(execution.log or (), folder.path, search.keys, fresh=execution.fresh) as search_log:
                try:
                    with watch(search, slots) as observer:
                        first, log = search.first(execution.retry_failed), Log(search_log.names, search_log.group)
                        search.run(executor, first, observer, should_stop, fresh=execution.fresh, log=log)
                finally:
                    search.write_candidates()
    finally:
        executor.close()
    if should_stop() and not search.is_over():
        raise Interrupted(f"{folder.path} keeps what is done, and the same command goes on from there")
    finish(search)


def finish(search: Search) -> None:
    """Write what a search came to.

    Raises:
        FolderError: A file cannot be written.
    """
    with held(search.folder.path):
        search.folder.write_asked(search.plan)
        is_new = search.write_candidates()
        if is_new or not (search.folder / IMPORTANCE).exists():
            write_importance(search)
        if search.plan.asked.confirm == 0 or not (search.folder / TUNE_TEXT).exists():
            write_text(search, ())  # else the confirmation writes it


def slots_for(search: Search, execution: Execution) -> Slots:
    """Return the places for the trials, which get their share of the threads; the lab's server is started."""
    lab.start()
    slots = execution.slots(search.plan.base.hardware)
    search.use_threads(slots.threads)
    return slots


def confirm_found(
    search: Search, execution: Execution, run: Callable[[Sweep], Tables] | None = None
) -> tuple[Sweep, Tables] | None:
    """Confirm what a search has found; return the sweep with its tables, or None where none is asked for.

    Args:
        search: The search, which is over.
        execution: How trials are run.
        run: Runs a sweep; None: in silence.

    Raises:
        ConfigError: No candidate has a result.
        TdbenchError: Something is missing, or a file cannot be written; what was done is intact.
    """
    if not search.plan.asked.confirm:
        return None
    if not search.ranking(search.plan.subjects[0]):
        raise FolderError(f"no candidate of {search.folder.path} has a result; candidates.csv says why")
    sweep = confirmation(search)
    if execution.log:
        sweep.group = group_of(search.folder.path)
    tables = run(sweep) if run is not None else run_missing(sweep, execution)
    write_text(search, tables.summary)
    return sweep, tables
