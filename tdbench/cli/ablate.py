"""`tdbench ablate`: a sweep, with certainty."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import options

if TYPE_CHECKING:
    from tdbench.sweep.executors import Executor
    from tdbench.sweep.plan import Plan
    from tdbench.sweep.runner import Sweep
    from tdbench.sweep.slots import Slots

_SWEEP = "The sweep"
_TRIALS = "The trials"

Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="KEY[=VALUES]",
        help="What to vary, such as block_size, regularizer, sites, augment.cutout; several make a grid.",
        rich_help_panel=_SWEEP,
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B,C", help="Its values, or FIRST:LAST:STEP; once for each --param.", rich_help_panel=_SWEEP
    ),
]
Seeds = Annotated[
    str | None, typer.Option(metavar="N|A,B", help="How many seeds, or which.  [default: 3]", rich_help_panel=_SWEEP)
]
Baseline = Annotated[
    str | None,
    typer.Option(metavar="none|VALUE|off", help="What to compare with.  [default: none]", rich_help_panel=_SWEEP),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the trials and the time; train nothing.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Trials at once on the CPU; they share the threads.", rich_help_panel=_TRIALS
    ),
]
Gpus = Annotated[
    str | None, typer.Option(metavar="0,1", help="GPUs to spread trials over.  [default: all]", rich_help_panel=_TRIALS)
]
PerGpu = Annotated[int, typer.Option(min=1, metavar="N", help="Trials at once on each GPU.", rich_help_panel=_TRIALS)]
TrialTimeout = Annotated[
    float | None,
    typer.Option(min=0, metavar="S", help="Give a trial up after so many seconds.", rich_help_panel=_TRIALS),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run again what failed or diverged.", rich_help_panel=_TRIALS)
]
ExecutorName = Annotated[
    str, typer.Option("--executor", metavar="local|ray", help="Where trials run.", rich_help_panel=_TRIALS)
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Ray cluster, such as auto; none: a local one.", rich_help_panel=_TRIALS),
]
Log = Annotated[
    str | None, typer.Option(metavar="tensorboard", help="Write the curves there too.", rich_help_panel=_TRIALS)
]


def ablate_command(
    context: typer.Context,
    config: options.Experiment = None,
    params: Params = None,
    values: Values = None,
    seeds: Seeds = None,
    baseline: Baseline = None,
    dry_run: DryRun = False,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    train_fraction: options.TrainFraction = None,
    model: options.Model = None,
    regularizer: options.Regularizer = None,
    sites: options.Sites = None,
    match: options.Match = None,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    batch_size: options.BatchSize = None,
    eval_every: options.EvalEvery = None,
    lr: options.LearningRate = None,
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compile: options.Compile = None,
    threads: options.Threads = None,
    deterministic: options.Deterministic = None,
    jobs: Jobs = None,
    gpus: Gpus = None,
    per_gpu: PerGpu = 1,
    trial_timeout: TrialTimeout = None,
    retry_failed: RetryFailed = False,
    executor: ExecutorName = "local",
    ray_address: RayAddress = None,
    log: Log = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Vary a setting over values and paired seeds, and say with what certainty it helps.

    With no argument, TargetDrop's block size on scikit-learn's digits. The same command again runs what is missing.
    """
    from tdbench.config import FLAGS

    flags = {name: context.params[name] for name in FLAGS if name != "seed"}
    given = options.overrides(flags, assignments)
    check_choices(given, executor, ray_address, log)
    plan = make_plan_of(config, given, params or [], values or [], seeds, baseline)

    from tdbench.sweep.slots import plan_slots

    slots = plan_slots(plan.base.hardware, jobs, gpus.split(",") if gpus else None, per_gpu)
    sweep = open_sweep(plan.with_threads(slots.threads), out or default_folder(plan))
    if dry_run:
        show_plan(sweep, slots, retry_failed, quiet=quiet, json=json)
        return
    interrupted = run(sweep, slots, context.params)
    show_summary(sweep, quiet=quiet, json=json)
    if interrupted:
        from tdbench.errors import Interrupted

        raise Interrupted(f"{sweep.folder.path} keeps what is done, and the same command goes on from there")
    if sweep.unfinished():
        raise typer.Exit(1)


def check_choices(given: dict[str, Any], executor: str, ray_address: str | None, log: str | None) -> None:
    """Raise ConfigError for a choice that does not exist, or that would be ignored."""
    from tdbench.errors import ConfigError, unknown

    if "seed" in given:
        raise ConfigError(f"--set seed must be left out: --seeds says which seeds run, got {given['seed']}")
    if executor not in ("local", "ray"):
        raise ConfigError(unknown("--executor", executor, ["local", "ray"]))
    if ray_address is not None and executor != "ray":
        raise ConfigError(f"--ray-address goes with --executor ray, got {ray_address}")
    if log not in (None, "tensorboard"):
        raise ConfigError(unknown("--log", log, ["tensorboard"]))


def make_plan_of(
    path: Path | None,
    overrides: dict[str, Any],
    params: list[str],
    values: list[str],
    seeds: str | None,
    baseline: str | None,
) -> "Plan":
    """Return the plan that a file and flags ask for."""
    from tdbench.config.loading import read_yaml
    from tdbench.sweep.experiment import from_flags, read_experiment, resolve_base
    from tdbench.sweep.plan import make_plan

    experiment = read_experiment(path) if path is not None else None
    base = experiment.base if experiment is not None else read_yaml(path) if path is not None else {}
    return make_plan(from_flags(experiment, resolve_base(base, overrides, path), params, values, seeds, baseline))


def default_folder(plan: "Plan") -> Path:
    """Return a folder of its own for each sweep, whatever its values and seeds, so that more of them join it."""
    import re

    from tdbench.config.user_code import label

    names = (plan.base.data.name, label(plan.base.model.name), *plan.keys, plan.digest)
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(("sweep", *names)))


def open_sweep(plan: "Plan", path: Path) -> "Sweep":
    """Return the sweep in a folder, with what became of its trials.

    Raises:
        FolderError: The folder holds another sweep, or something else.
    """
    from tdbench.results.store import SweepFolder
    from tdbench.sweep.plan import check_folder
    from tdbench.sweep.runner import Sweep

    folder = SweepFolder(path)
    check_folder(plan, folder)
    return Sweep(plan, folder)


def run(sweep: "Sweep", slots: "Slots", arguments: dict[str, Any]) -> bool:
    """Run what is missing and write all tables; return whether it was stopped before the end."""
    from tdbench.cli.signals import stop_signals
    from tdbench.cli.sweep_terminal import watch_sweep
    from tdbench.cli.terminal import say
    from tdbench.results.store import held
    from tdbench.sweep.preflight import check_trials
    from tdbench.sweep.report import write_report

    executor, silent = make_executor(slots, arguments), arguments["quiet"] or arguments["json"]
    with held(sweep.folder.path), stop_signals() as signals:
        sweep.look_again()  # another process may have been at it meanwhile
        missing = sweep.missing(arguments["retry_failed"])
        if missing:
            if not silent:
                say("checking the data, networks and sites of the trials ...")
            check_trials(sweep.plan.trials[digest] for digest in missing)
        sweep.folder.write_sweep(sweep.plan.tree())  # from here on the folder is this sweep's
        if missing:
            signals.be_graceful()
            with watch_sweep(silent, sweep, slots) as watcher:
                sweep.run(
                    executor,
                    watcher=watcher,
                    should_stop=signals.stop_requested,
                    retry_failed=arguments["retry_failed"],
                    log=arguments["log"],
                )
        elif not silent:
            say(f"all {len(sweep.records)} trials were run before; nothing to do")
        write_report(sweep)
        return signals.stop_requested() and bool(sweep.missing())


def make_executor(slots: "Slots", arguments: dict[str, Any]) -> "Executor":
    """Return where the trials run.

    Raises:
        ConfigError: There is no such place, or what it needs is not installed.
    """
    from tdbench.sweep.executors import LocalExecutor
    from tdbench.training.tensorboard import check_tensorboard

    if arguments["log"] == "tensorboard":
        check_tensorboard()
    if arguments["executor"] == "local":
        return LocalExecutor(slots.environments, arguments["trial_timeout"])
    from tdbench.sweep.ray_executor import RayExecutor

    return RayExecutor(slots, arguments["ray_address"], arguments["trial_timeout"])


def show_plan(sweep: "Sweep", slots: "Slots", retry_failed: bool, *, quiet: bool, json: bool) -> None:
    """Print the trials, how many are done, and the time that is left."""
    from tdbench.cli.sweep_tables import print_plan
    from tdbench.errors import DataError
    from tdbench.sweep.preflight import check_trials, time_left_s

    missing = sweep.missing(retry_failed)
    finished = [(sweep.plan.trials[digest], record["wall_s"]) for digest, record in sweep.done().items()]
    waiting = [sweep.plan.trials[digest] for digest in missing]
    left_s: float | None = None
    try:
        if waiting:
            check_trials(waiting)
        left_s = time_left_s(waiting, finished, len(slots.environments))
    except DataError as error:  # the plan stands without it
        typer.echo(f"tdbench: note: the time that is left is unknown: {error}", err=True)
    print_plan(sweep, missing, left_s, quiet=quiet, json=json)


def show_summary(sweep: "Sweep", *, quiet: bool, json: bool) -> None:
    """Print what came out."""
    from tdbench.cli.sweep_tables import closing_line, print_summary
    from tdbench.cli.terminal import say

    if json:
        import json as json_module

        say(json_module.dumps(sweep.summary_rows(), indent=2, ensure_ascii=False))
    elif quiet:
        say(closing_line(sweep))
    else:
        print_summary(sweep)
