"""`tdbench list`: the methods with their knobs, the networks, the data sets, the ready experiments."""

from typing import Any

import typer

from tdbench.cli import options


def list_command(
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Show the methods and their knobs (range, default, source), all settings, networks, data sets and experiments."""
    from tdbench.store.files import make_folder, to_csv, write_atomically

    tables = {
        "methods": methods(),
        "knobs": knobs(),
        "settings": settings(),
        "models": models(),
        "data": data_sets(),
        "experiments": experiments(),
    }
    if out is not None:
        make_folder(out)
        for name, rows in tables.items():
            write_atomically(out / f"{name}.csv", to_csv(rows, list(rows[0])).encode())
    if json:
        import json as json_module

        typer.echo(json_module.dumps(tables, indent=2, ensure_ascii=False))
    elif quiet:
        typer.echo(", ".join(f"{len(rows)} {name}" for name, rows in tables.items()))
    else:
        print_tables(tables)


def methods() -> list[dict[str, Any]]:
    from tdbench.regularizers.registry import find_method, method_names

    return [
        {"method": name, "what it does": find_method(name).model_fields["name"].description} for name in method_names()
    ]


def knobs() -> list[dict[str, Any]]:
    """Return a row per knob of each method."""
    from tdbench.knobs import about, allowed, shown_default
    from tdbench.regularizers.registry import find_method, method_names

    return [
        {
            "method": method,
            "knob": name,
            "default": shown_default(field),
            "range": allowed(field),
            "also": " ".join(about(field).get("aliases", ())),
            "meaning": field.description or "",
            "source of the default": about(field).get("source", ""),
        }
        for method in method_names()
        for name, field in find_method(method).model_fields.items()
        if name != "name" and name in find_method(method).__annotations__
    ]


def settings() -> list[dict[str, Any]]:
    """Return a row per key of the configuration that is not a method's knob."""
    from tdbench.config import known_keys
    from tdbench.knobs import allowed, shown_default
    from tdbench.regularizers.config import RegularizerConfig

    return [
        {
            "key": key,
            "default": shown_default(field),
            "range": allowed(field),
            "meaning": field.description or "",
        }
        for key, field in known_keys(RegularizerConfig).items()
    ]


def models() -> list[dict[str, Any]]:
    from tdbench.config.networks import NETWORKS

    return [{"model": name, "what it is": network.title} for name, network in NETWORKS.items()]


def data_sets() -> list[dict[str, Any]]:
    from tdbench.config.data_sets import DATA_SETS

    return [
        {
            "data": name,
            "what it is": source.title,
            "train": "" if source.num_train is None else source.num_train,
            "test": "" if source.num_test is None else source.num_test,
            "classes": "" if source.num_classes is None else source.num_classes,
            "image": "" if source.image is None else "×".join(map(str, source.image)),
            "from": source.provenance,
        }
        for name, source in DATA_SETS.items()
    ]


def experiments() -> list[dict[str, Any]]:
    """Return a row per experiment that comes with tdbench."""
    from tdbench.sweep.experiment import read_experiment, ready_experiments

    read = {f"ablations/{path.name}": read_experiment(path) for path in ready_experiments()}
    return [{"experiment": name, "what it asks": one.title} for name, one in read.items() if one is not None]


def print_tables(tables: dict[str, list[dict[str, Any]]]) -> None:
    """Print each table, as wide as the terminal."""
    from rich.table import Table

    from tdbench.cli.console import console

    screen = console()
    for name, rows in tables.items():
        table = Table(title=name, title_justify="left", title_style="bold")
        for column in rows[0]:
            table.add_column(
                column, overflow="fold", no_wrap=column in ("method", "knob", "key", "model", "data", "experiment")
            )
        for row in rows:
            table.add_row(*map(str, row.values()))
        screen.print(table)
