"""`tdbench show`: a picture of what each method drops."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tdbench.cli import options
from tdbench.cli.starting import Start

DEFAULT_FOLDER = Path("show")

_PICTURE = "The picture"

Images = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Images of the test set, of different classes; default: 4.", rich_help_panel=_PICTURE
    ),
]
TrainedRun = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A run folder of train, for its configuration and weights, and class-activation maps.",
        rich_help_panel=_PICTURE,
    ),
]


@options.with_run_flags
def show_command(
    given: dict[str, Any],
    config: options.ConfigFile = None,
    images: Images = None,
    run: TrainedRun = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Draw what each method drops at one site: the images, the most attended feature maps, and the masks side by side.

    Writes show.png, show.svg and show.csv to show/, unless --out names another. --regularizer A,B names the methods,
    --sites the one site. The network is untrained unless --run names a run; Grad-CAM then shows where
    it found the class. A --set applies to each method that has such a knob.
    """
    from tdbench.errors import ConfigError
    from tdbench.show.choice import shown_runs
    from tdbench.store.files import make_folder, to_csv, write_atomically
    from tdbench.store.folders import CONFIG, RunFolder

    start, methods = Start(), options.methods_in(given)
    if run is not None and config is not None:
        raise ConfigError(f"give CONFIG.yaml or --run, not both: {run} has a configuration of its own")
    if run is not None:
        RunFolder(run).check_has_trained()
    elif not options.names_user_method(given, methods):
        shown_runs(config, methods, given)  # what is wrong should not wait for torch
    start.announce("torch, the data and the network", quiet or json, given.get("threads"))
    from tdbench.show.gallery import ROW_COLUMNS, collect
    from tdbench.show.picture import render
    from tdbench.training.trained import open_run

    trained = None if run is None else open_run(run)
    gallery = collect(shown_runs(config if run is None else run / CONFIG, methods, given), images, trained)
    files = render(gallery) | {"show.csv": to_csv(gallery.rows(), ROW_COLUMNS).encode()}
    folder = out or DEFAULT_FOLDER
    make_folder(folder)
    for name, content in files.items():
        write_atomically(folder / name, content)
    print_gallery(gallery.summary(), folder, list(files), quiet, json)


def print_gallery(summary: dict[str, Any], folder: Path, files: list[str], quiet: bool, as_json: bool) -> None:
    """Print what was drawn, and where the files are."""
    from tdbench.cli.output import say
    from tdbench.store.files import to_json

    if as_json:
        say(to_json(summary | {"files": [str(folder / name) for name in files]}).rstrip())
        return
    shares = [(row["method"], row["site"], f"{row['dropped_pct']:.3g} %") for row in summary["methods"]]
    if quiet:
        say(f"{', '.join(f'{method} drops {share} at {site}' for method, site, share in shares)}; {folder}")
        return
    say(f"{summary['model']} on {summary['data']}, {summary['weights']}; dropped units, seed {summary['seed']}:")
    for method, site, share in shares:
        say(f"  {method:<24} {site:<24} {share:>8}")
    for note in summary["notes"]:
        say(f"note: {note}")
    say(f"files in {folder}: {' '.join(files)}")
