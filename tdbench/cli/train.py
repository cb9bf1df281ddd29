"""`tdbench train`: one run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tdbench.cli import options

if TYPE_CHECKING:
    from tdbench.config import RunConfig


def train_command(
    context: typer.Context,
    config: options.ConfigFile = None,
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
    seed: options.Seed = None,
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    compile: options.Compile = None,
    threads: options.Threads = None,
    deterministic: options.Deterministic = None,
    out: options.Out = None,
    fresh: options.Fresh = False,
    torch_profile: options.TorchProfile = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train one network with one regularizer; with no argument, TargetDrop on scikit-learn's digits.

    The results go to a folder of their own under runs/, unless --out names another. `tdbench list` shows every key that
    --set takes, with its range and default. `torchrun --nproc-per-node N -m tdbench train` trains in N processes.
    """
    from tdbench.config import FLAGS, load_config
    from tdbench.training.parallel import joined

    with joined() as processes:
        flags = options.overrides({name: context.params[name] for name in FLAGS}, assignments)
        run = processes.together(lambda: load_config(config, flags))
        folder = out or default_folder(run)

        from tdbench.cli.signals import stop_signals
        from tdbench.cli.terminal import show_result, watch
        from tdbench.training.loop import train

        silent = quiet or json or processes.rank > 0
        with stop_signals() as signals, watch(silent, on_start=signals.be_graceful) as observer:
            result = train(
                run,
                folder,
                fresh=fresh,
                observer=observer,
                should_stop=signals.stop_requested,
                processes=processes,
                trace=torch_profile,
            )
        if processes.rank == 0:
            if missed := off_target(run.regularizer.match, result["dropped_pct"]):
                typer.echo(missed, err=True)
            show_result(result, folder, observer.has_started, quiet=quiet, json=json, trace=torch_profile)
    if result["status"] != "done":
        raise typer.Exit(1)


def off_target(match: float | None, dropped_pct: float | None) -> str | None:
    """Return in words how far a run's dropped share is from the one it was solved for; None where it is near."""
    from tdbench.cli.terminal import is_off_target

    if not is_off_target(match, dropped_pct):
        return None
    return (
        f"tdbench: note: {dropped_pct:.3g} % of the units were dropped, not the {match:g} % that were asked for: the "
        "calibration saw the initial network, and a short run has few masks and few steps of its schedule"
    )


def default_folder(config: "RunConfig") -> Path:
    """Return a folder of its own for each configuration, so that the same command finds its run again."""
    from tdbench.config.user_code import label

    names = (config.data.name, label(config.model.name), label(config.regularizer.name))
    parts = (*names, f"seed{config.seed}", config.digest())
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(parts))
