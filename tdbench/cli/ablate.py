"""`tdbench ablate`: a sweep, with certainty."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import completion, options
from tdbench.cli.starting import Start

if TYPE_CHECKING:
    from tdbench.store.progress import SweepObserver
    from tdbench.sweep.ablate import Execution
    from tdbench.sweep.runner import Sweep, Tables
    from tdbench.sweep.slots import Slots

_SWEEP = "The sweep"
_TRIALS = "The trials"
_OWN = "A script of your own"

Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="KEY[=VALUES]",
        help="What to vary, such as block_size, regularizer, sites, augment.cutout; several make a grid.",
        rich_help_panel=_SWEEP,
        autocompletion=completion.parameter,
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B,C", help="Its values, or FIRST:LAST:STEP; once for each --param.", rich_help_panel=_SWEEP
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="FIRST..LAST|N|A,B",
        help="FIRST..LAST: each value gets seeds until it is decided; or how many, or which.  [default: 3..10]",
        rich_help_panel=_SWEEP,
    ),
]
Smallest = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="The smallest difference that matters: one within it is equivalent.",
        rich_help_panel=_SWEEP,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="none|VALUE|off",
        help="What to compare with.  [default: none]",
        rich_help_panel=_SWEEP,
        autocompletion=completion.among(lambda: ("none", "off")),
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the verdict is about, of the fields of result.json.  [default: test_error_pct]",
        rich_help_panel=_SWEEP,
        autocompletion=completion.among(completion.metrics),
    ),
]
Command = Annotated[
    str | None,
    typer.Option(
        metavar="'SCRIPT {KEY} {seed}'",
        help="A script of yours as the trials, run without a shell; {out} is its folder.",
        rich_help_panel=_OWN,
    ),
]
Read = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE:KEY|stdout:REGEX",
        help="Where it leaves its figures: out/result.json:KEY, out/log.csv:COLUMN; the first one decides.",
        rich_help_panel=_OWN,
    ),
]
Higher = Annotated[
    bool | None,
    typer.Option("--higher-is-better/--lower-is-better", help="Of the script's metric.", rich_help_panel=_OWN),
]
Audit = Annotated[
    bool,
    typer.Option(
        "--audit", help="First hold each value's regularizer against its configuration.", rich_help_panel=_TRIALS
    ),
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
    str,
    typer.Option(
        "--executor",
        metavar="local|ray|slurm",
        help="Where trials run.",
        rich_help_panel=_TRIALS,
        autocompletion=completion.among(completion.executors),
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Ray cluster, such as auto; none: a local one.", rich_help_panel=_TRIALS),
]
SlurmOptions = Annotated[
    str | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="What each Slurm job asks for: partition, time, memory, gpus, cpus, account, qos, constraint.",
        rich_help_panel=_TRIALS,
        autocompletion=completion.slurm,
    ),
]


@options.with_run_flags
def ablate_command(
    given: dict[str, Any],
    config: options.Experiment = None,
    params: Params = None,
    values: Values = None,
    seeds: Seeds = None,
    baseline: Baseline = None,
    metric: Metric = None,
    smallest: Smallest = None,
    command: Command = None,
    read: Read = None,
    higher_is_better: Higher = None,
    dry_run: DryRun = False,
    jobs: Jobs = None,
    gpus: Gpus = None,
    per_gpu: PerGpu = 1,
    trial_timeout: TrialTimeout = None,
    retry_failed: RetryFailed = False,
    fresh: options.Fresh = False,
    executor: ExecutorName = "local",
    ray_address: RayAddress = None,
    log: options.Log = None,
    slurm: SlurmOptions = None,
    audit: Audit = False,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Vary a setting over values and paired seeds, and say with what certainty it helps.

    With no argument, TargetDrop's block size on a fifth of scikit-learn's digits. The same command again runs what
    is missing.
    """
    from tdbench.sweep import lab
    from tdbench.sweep.ablate import Execution, default_folder, look_ahead, open_sweep
    from tdbench.sweep.asked import own_of, plan_sweep

    start = Start()
    how = Execution(jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log, slurm, audit)

    def announce() -> None:
        start.announce("torch", quiet or json)

    with lab.stand_ins():
        own = own_of(command, read or (), higher_is_better)
        plan = plan_sweep(config, params or [], values or [], seeds, baseline, given, metric, smallest, announce, own)
        sweep = open_sweep(plan, out or default_folder(plan), fresh=fresh)
        if sweep.missing(retry_failed, fresh) and not plan.experiment.is_own:
            announce()
        if dry_run:
            from tdbench.cli.sweep_tables import print_outlook

            print_outlook(look_ahead(sweep, how), quiet=quiet, json=json)
        else:
            run_sweep(sweep, how, quiet=quiet, json=json)
    if not dry_run and (at_fault(sweep, is_audited=audit) or sweep.unfinished()):
        raise typer.Exit(1)


def at_fault(sweep: "Sweep", *, is_audited: bool) -> bool:
    """Return whether the audit of a sweep has found a fault, and say in how many of its values."""
    from tdbench.store.files import counted
    from tdbench.store.folders import AUDIT

    values = {row["value"] for row in sweep.folder.read_audit() if row["faults"]} if is_audited else set()
    if values:
        told = f"the audit found faults in {counted(len(values), 'value')}: {sweep.folder / AUDIT}"
        typer.echo(f"tdbench: {told}", err=True)
    return bool(values)


def run_sweep(sweep: "Sweep", execution: "Execution", *, quiet: bool, json: bool, is_shown: bool = True) -> "Tables":
    """Run what is missing, print what came out, and return it; after an interruption, print what there is."""
    from tdbench.cli.output import say
    from tdbench.cli.signals import stop_signals
    from tdbench.cli.sweep_tables import show_summary
    from tdbench.cli.sweep_terminal import SweepWords, watch_sweep
    from tdbench.errors import Interrupted
    from tdbench.sweep.ablate import run_missing

    silent = quiet or json
    with stop_signals() as signals:

        @contextmanager
        def watch(sweep: "Sweep", slots: "Slots") -> "Iterator[SweepObserver]":
            signals.be_graceful()
            with watch_sweep(silent, SweepWords(sweep), slots) as observer:
                yield observer

        try:
            tables = run_missing(
                sweep,
                execution,
                watch=watch,
                tell=(lambda line: None) if silent else say,
                should_stop=signals.stop_requested,
            )
        except Interrupted:
            if is_shown:
                show_summary(sweep, sweep.tables(), quiet=quiet, json=json)
            raise
    if is_shown:
        show_summary(sweep, tables, quiet=quiet, json=json)
    return tables
