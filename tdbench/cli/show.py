"""`tdbench show`: a picture of what each method drops."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import options

if TYPE_CHECKING:
    from tdbench.config import RegularizerConfig, RunConfig

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
    from tdbench.results.gallery import ROW_COLUMNS, collect
    from tdbench.results.picture import render
    from tdbench.results.store import to_csv, write_atomically

    gallery = collect(configs, images, trained)
    files = render(gallery) | {"show.csv": to_csv(gallery.rows(), ROW_COLUMNS).encode()}
    folder = out or DEFAULT_FOLDER
    make_folder(folder)
    for name, content in files.items():
        write_atomically(folder / name, content)
    report(gallery.summary(), folder, list(files), quiet, json)


def report(summary: dict[str, Any], folder: Path, files: list[str], quiet: bool, as_json: bool) -> None:
    """Print what was drawn, and where the files are."""
    from tdbench.cli.terminal import say
    from tdbench.results.store import to_json

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


def configs_of(path: Path | None, flags: dict[str, Any], assignments: list[str] | None) -> list["RunConfig"]:
    """Return a run per method; they differ by their regularizer only, and each takes the settings that it has.

    Raises:
        ConfigError: A flag, a setting or a method is unknown or out of range.
    """
    from tdbench.config import find_method, load_config
    from tdbench.errors import ConfigError

    general = {name: value for name, value in flags.items() if name not in ("regularizer", "sites")}
    chosen, site = flags.get("regularizer"), flags.get("sites")
    own = load_config(path, general).regularizer.name
    names = dict.fromkeys((own, *COMPARED) if chosen is None else (name.strip() for name in chosen.split(",")))
    methods = {name: find_method(name) for name in names}
    if site is not None and "," in site:
        raise ConfigError(f"--sites must name the one site that is shown, got {site!r}")
    settings = settings_of(methods, assignments)
    shares_site = any(method.placement == "feature_map" for method in methods.values())
    configs = []
    for name, method in methods.items():
        overrides = {"regularizer": name, **general, **settings[name]}
        # A method that belongs elsewhere, as cutout does, stays there beside others that are put at the site.
        stays = shares_site and method.placement != "feature_map"
        if site is not None and not stays:
            overrides["regularizer.sites"] = site
        elif stays and name != own:
            overrides["regularizer.sites"] = None
        try:
            configs.append(load_config(path, overrides))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return configs


def settings_of(
    methods: dict[str, type["RegularizerConfig"]], assignments: list[str] | None
) -> dict[str, dict[str, Any]]:
    """Return what `--set` says to each method: the keys that mean something to a run with it.

    Raises:
        ConfigError: A key means nothing to any of them, or would replace the method.
    """
    from tdbench.config import resolve_key
    from tdbench.errors import ConfigError

    settings: dict[str, dict[str, Any]] = {name: {} for name in methods}
    for key, value in options.overrides({}, assignments).items():
        unknown: list[ConfigError] = []
        for name, method in methods.items():
            try:
                resolved = resolve_key(key, method)
            except ConfigError as error:
                unknown.append(error)
                continue
            if resolved == "regularizer.name":
                raise ConfigError(f"--regularizer names the methods that are shown, not --set {key}")
            settings[name][key] = value
        if len(unknown) == len(methods):
            raise unknown[0]
    return settings
