"""`tdbench tune`: a search, and its confirmation."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import completion, options
from tdbench.cli.ablate import (
    DryRun,
    ExecutorName,
    Gpus,
    Jobs,
    PerGpu,
    RayAddress,
    RetryFailed,
    SlurmOptions,
    TrialTimeout,
    run_sweep,
)
from tdbench.cli.starting import Start

if TYPE_CHECKING:
    from tdbench.store.progress import SweepObserver
    from tdbench.sweep.execution import Execution
    from tdbench.sweep.slots import Slots
    from tdbench.sweep.tune.search import Search

_SEARCH = "The search"

Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="KEY[=RANGE]",
        help="What to search: drop_ratio=0.05..0.6, lr=0.01..0.3:log, block_size=1,3,5.  [default: the method's knobs]",
        rich_help_panel=_SEARCH,
        autocompletion=completion.parameter,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(metavar="N", help="Candidates, all calls together.  [default: 40]", rich_help_panel=_SEARCH),
]
SearchSeeds = Annotated[
    int | None, typer.Option(metavar="N", help="Runs of each candidate.  [default: 2]", rich_help_panel=_SEARCH)
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="tpe|gp|random",
        help="How candidates are chosen, by Optuna. Nothing is pruned: a strong regularizer learns more slowly.",
        rich_help_panel=_SEARCH,
        autocompletion=completion.among(lambda: ("tpe", "gp", "random")),
    ),
]
SamplerSeed = Annotated[
    int | None, typer.Option(metavar="N", help="Seed of the choice of candidates.", rich_help_panel=_SEARCH)
]
Budget = Annotated[
    str | None, typer.Option(metavar="TIME", help="Time for the search: 4h, 30m, ...", rich_help_panel=_SEARCH)
]
TuneBaseline = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY[=RANGE],...",
        help="Search the baseline's own knobs as long: lr,weight_decay",
        rich_help_panel=_SEARCH,
    ),
]
Confirm = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Best candidates to confirm beside the default; 0: none.  [default: 1]",
        rich_help_panel=_SEARCH,
    ),
]
ConfirmSeeds = Annotated[
    str | None,
    typer.Option(
        metavar="FIRST..LAST",
        help="Design of the confirmation, on fresh seeds.  [default: 5..20]",
        rich_help_panel=_SEARCH,
    ),
]


@options.with_run_flags
def tune_command(
    given: dict[str, Any],
    config: options.TuneFile = None,
    params: Params = None,
    trials: Trials = None,
    search_seeds: SearchSeeds = None,
    sampler: Sampler = None,
    sampler_seed: SamplerSeed = None,
    budget: Budget = None,
    tune_baseline: TuneBaseline = None,
    confirm: Confirm = None,
    confirm_seeds: ConfirmSeeds = None,
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
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Search a method's settings on held-out images, then confirm the best on the test images with fresh seeds.

    With no argument, TargetDrop's own knobs on a fifth of scikit-learn's digits. The same command again goes on.
    """
    from tdbench.sweep import lab
    from tdbench.sweep.execution import Execution
    from tdbench.sweep.tune.command import open_search, plan_search

    start = Start()
    execution = Execution(jobs, gpus, per_gpu, trial_timeout, retry_failed, fresh, executor, ray_address, log, slurm)
    flags = {
        "trials": trials,
        "search_seeds": search_seeds,
        "sampler": sampler,
        "sampler_seed": sampler_seed,
        "budget": budget,
    }
    flags |= {"confirm": confirm, "confirm_seeds": confirm_seeds}

    def announce() -> None:
        start.announce("torch", quiet or json)

    with lab.stand_ins():
        plan = plan_search(config, params or [], split(tune_baseline), flags, given, announce)
        announce()
        search = open_search(plan, out or plan.default_folder(), fresh=fresh)
        if dry_run:
            from tdbench.cli.tune_terminal import print_outlook
            from tdbench.sweep.tune.outlook import look_ahead

            print_outlook(search, look_ahead(search, execution), quiet=quiet, json=json)
        else:
            run(search, execution, quiet=quiet, json=json)


def split(texts: list[str] | None) -> list[str]:
    """Return the knobs in `lr=0.01..0.3,weight_decay`, each with its range."""
    found: list[str] = []
    for part in (part for text in texts or () for part in text.split(",")):
        if found and "=" in found[-1] and re.fullmatch(r"\s*[-+.\deE]+\s*", part):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def run(search: "Search", execution: "Execution", *, quiet: bool, json: bool) -> None:
    """Run what is left of a search and its confirmation, and print what came out."""
    from tdbench.cli.output import say
    from tdbench.cli.signals import stop_signals
    from tdbench.cli.sweep_terminal import watch_sweep
    from tdbench.cli.tune_terminal import SearchWords, as_json, print_kept, search_line
    from tdbench.sweep.tune.command import confirm_found, run_search

    silent = quiet or json
    with stop_signals() as signals:

        @contextmanager
        def watch(search: "Search", slots: "Slots") -> "Iterator[SweepObserver]":
            signals.be_graceful()
            with watch_sweep(silent, SearchWords(search), slots) as observer:
                yield observer

        run_search(
            search,
            execution,
            watch=watch,
            tell=(lambda line: None) if silent else say,
            should_stop=signals.stop_requested,
        )
    if not json:
        say(search_line(search))
    confirmed = confirm_found(
        search, execution, lambda sweep: run_sweep(sweep, execution, quiet=quiet, json=json, is_shown=not json)
    )
    tables = None if confirmed is None else confirmed[1]
    if json:
        say(as_json(search, tables))
    elif tables is not None:
        print_kept(search, tables)
    if confirmed is not None and confirmed[0].unfinished():
        raise typer.Exit(1)
