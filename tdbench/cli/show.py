"""`tdbench show`: a picture of what each method drops."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import options

if TYPE_CHECKING:
    from tdbench.config import RunConfig

COMPARED = ("targetdrop", "dropblock", "spatial_dropout")
DEFAULT_FOLDER = Path("show")

_PICTURE = "The picture"

Methods = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help=f"Methods, side by side; default: the configuration's own, {', '.join(COMPARED)}.",
        rich_help_panel=_PICTURE,
    ),
]
Site = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The site that is shown: stage2, stage1.block1.conv1, ...; default: the first.",
        rich_help_panel=_PICTURE,
    ),
]
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


def show_command(
    context: typer.Context,
    config: options.ConfigFile = None,
    regularizer: Methods = None,
    sites: Site = None,
    images: Images = None,
    run: TrainedRun = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    model: options.Model = None,
    seed: options.Seed = None,
    assignments: options.Set = None,
    device: options.Device = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Draw what each method drops at one site: the images, the most attended feature maps, and the masks side by side.

    Writes show.png, show.svg and show.csv to show/, unless --out names another.
    The network is untrained unless --run names a run; Grad-CAM then shows where
    it found the class. A --set applies to each method that has such a knob.
    """
    from tdbench.config import FLAGS
    from tdbench.errors import ConfigError

    if run is not None and config is not None:
        raise ConfigError(f"give CONFIG.yaml or --run, not both: {run} has a configuration of its own")
    trained = None
    if run is not None:
        from tdbench.training.trained import open_run

        trained = open_run(run)
        config = run / "config.yaml"
    flags = {name: context.params[name] for name in FLAGS if context.params.get(name) is not None}
    configs = configs_of(config, flags, assignments)

    from tdbench.cli.list import make_folder
    from tdbench.cli.terminal import say
    from tdbench.results.gallery import ROW_COLUMNS, collect
    from tdbench.results.picture import render
    from tdbench.results.store import to_csv, to_json, write_atomically

    gallery = collect(configs, images, trained)
    files = render(gallery) | {"show.csv": to_csv(gallery.rows(), ROW_COLUMNS).encode()}
    folder = out or DEFAULT_FOLDER
    make_folder(folder)
    for name, content in files.items():
        write_atomically(folder / name, content)
    summary = gallery.summary()
    if json:
        say(to_json(summary | {"files": [str(folder / name) for name in files]}).rstrip())
        return
    shares = [(row["method"], row["site"], f"{row['dropped_pct']:.3g} %") for row in summary["methods"]]
    if quiet:
        say(f"{', '.join(f'{method} drops {share} at {site}' for method, site, share in shares)}; {folder}")
        return
    say(f"{summary['model']} on {summary['data']}, {summary['weights']}; dropped units, seed {summary['seed']}:")
    for method, site, share in shares:
        say(f"  {method:<24} {site:<16} {share:>8}")
    for note in summary["notes"]:
        say(f"note: {note}")
    say(f"files in {folder}: {' '.join(files)}")


def configs_of(path: Path | None, flags: dict[str, Any], assignments: list[str] | None) -> list["RunConfig"]:
    """Return a run per method; they differ by their regularizer only, and each takes the settings that it has.

    Raises:
        ConfigError: A flag, a setting or a method is unknown or out of range.
    """
    from tdbench.config import find_method, load_config, resolve_key
    from tdbench.errors import ConfigError

    chosen, site = flags.pop("regularizer", None), flags.pop("sites", None)
    own = load_config(path, flags).regularizer.name
    names = list(dict.fromkeys((own, *COMPARED) if chosen is None else (name.strip() for name in chosen.split(","))))
    methods = {name: find_method(name) for name in names}
    if site is not None and "," in site:
        raise ConfigError(f"--sites must name the one site that is shown, got {site!r}")
    given = {method: {"regularizer": method, **flags} for method in names}
    for key, value in options.overrides({}, assignments).items():
        takers = [method for method in names if has_key(methods[method], key)]
        if "regularizer.name" in {resolve_key(key, methods[method]) for method in takers or names[:1]}:
            raise ConfigError(f"--regularizer names the methods that are shown, not --set {key}")
        for method in takers:
            given[method][key] = value
    for method, overrides in given.items():
        # A method that belongs elsewhere, as cutout does, stays there beside others that are put at the site.
        elsewhere = methods[method].placement != "feature_map"
        stays = elsewhere and any(other.placement == "feature_map" for other in methods.values())
        if site is not None and not stays:
            overrides["regularizer.sites"] = site
        elif stays and method != own:
            overrides["regularizer.sites"] = None
    configs = []
    for method, overrides in given.items():
        try:
            configs.append(load_config(path, overrides))
        except ConfigError as error:
            raise ConfigError(f"{method}: {error}") from error
    return configs


def has_key(method: Any, key: str) -> bool:
    """Return whether a key of `--set` means something to a run with this method."""
    from tdbench.config import resolve_key
    from tdbench.errors import ConfigError

    try:
        resolve_key(key, method)
    except ConfigError:
        return False
    return True
