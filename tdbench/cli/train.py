"""`tdbench train`: one run."""

from typing import Any

import typer

from tdbench.cli import options
from tdbench.cli.starting import Start


@options.with_run_flags
def train_command(
    given: dict[str, Any],
    config: options.ConfigFile = None,
    out: options.Out = None,
    fresh: options.Fresh = False,
    torch_profile: options.TorchProfile = None,
    log: options.Log = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train one network with one regularizer; with no argument, TargetDrop on scikit-learn's digits.

    The results go to a folder of their own under runs/, unless --out names another. `tdbench list` shows every key that
    --set takes, with its range and default. `torchrun --nproc-per-node N -m tdbench train` trains in N processes.
    """
    from tdbench.cli.signals import stop_signals
    from tdbench.cli.terminal import note_nothing_dropped, note_off_target, show_result, watch
    from tdbench.config import load_config
    from tdbench.training.parallel import joined
    from tdbench.training.train import default_folder, train

    start = Start()
    with joined() as processes:
        run = processes.together(lambda: load_config(config, given))
        folder, silent = out or default_folder(run), quiet or json or processes.rank > 0

        def load() -> None:
            start.announce("torch, the data and the network", silent, run.hardware.threads)

        with stop_signals() as signals, watch(silent, on_start=signals.be_graceful) as observer:
            result = train(
                run,
                folder,
                fresh=fresh,
                observer=observer,
                should_stop=signals.stop_requested,
                processes=processes,
                torch_profile=torch_profile,
                log=log,
                before_loading=load,
            )
        if processes.rank == 0:
            note_off_target(run.regularizer.match, result.dropped_pct)
            note_nothing_dropped(run.regularizer, result)
            show_result(result, folder, observer.has_started, quiet=quiet, json=json, trace=torch_profile)
    if not result.is_done:
        raise typer.Exit(1)
