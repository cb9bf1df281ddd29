"""`tdbench list`: the methods with their knobs, the networks, the data sets, the ready experiments."""

import textwrap
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from tdbench.cli import completion, options

RANGE_WIDTH, PROSE_WIDTH = 20, 30  # characters, the most for a range and the least for prose
SOURCE = "source of the default"

Rows = list[dict[str, Any]]

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[WHAT]",
        help="methods, knobs, settings, models, data or experiments; or a method, FILE.py:MyDrop too, for its knobs.",
        autocompletion=completion.tables,
    ),
]
Sources = Annotated[bool, typer.Option("--sources", help="Say where each knob's default comes from.")]


def list_command(
    what: What = None,
    sources: Sources = False,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Show the methods and their knobs (range, default, source), all settings, networks, data sets and experiments."""
    from tdbench.cli.output import stdout_for_ourselves
    from tdbench.store.files import make_folder, to_csv, write_atomically

    with stdout_for_ourselves():  # a method of the user's may print
        tables = chosen(what)
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
        if what is not None and what not in tables:
            print_method(what)
        print_tables(tables, whole=what is not None or sources, sources=sources)


def chosen(what: str | None) -> dict[str, Rows]:
    """Return the tables that are asked for, by name.

    Raises:
        ConfigError: There is neither a table nor a method of that name.
    """
    from tdbench.errors import ConfigError, unknown
    from tdbench.regularizers.registry import find_method, method_names
    from tdbench.user_code import is_user_code

    tables: dict[str, Callable[[], Rows]] = {
        "methods": methods,
        "knobs": knobs,
        "settings": settings,
        "models": models,
        "data": data_sets,
        "experiments": experiments,
    }
    if what is None:
        return {name: rows() for name, rows in tables.items()}
    if what in tables:
        return {what: tables[what]()}
    if what not in method_names() and not is_user_code(what):
        raise ConfigError(unknown("name", what, [*tables, *method_names()]))
    find_method(what)
    return {"knobs": knobs_of(what, shared=True)}


def print_method(name: str) -> None:
    """Print a method's source, its formula, where it departs from its public code, and its default place."""
    import inspect

    from tdbench.cli.console import console
    from tdbench.cli.output import say
    from tdbench.regularizers.registry import find_method

    method = find_method(name)
    text = inspect.cleandoc(getattr(inspect.getmodule(method), "__doc__", None) or method.__doc__ or "")
    for paragraph in (*text.split("\n\n"), f"Where no site is named, it stands at {method.default_place()}."):
        for line in textwrap.wrap(paragraph, min(console().width, 100), break_on_hyphens=False):
            say(line)
        say("")


def methods() -> Rows:
    from tdbench.regularizers.registry import find_method, method_names

    return [
        {"method": name, "what it does": find_method(name).model_fields["name"].description} for name in method_names()
    ]


def knobs() -> Rows:
    """Return a row per knob of each method."""
    from tdbench.regularizers.registry import method_names

    return [row for method in method_names() for row in knobs_of(method)]


def knobs_of(method: str, shared: bool = False) -> Rows:
    """Return a row per knob of a method; those that all methods have only where they are asked for."""
    from tdbench.knobs import about, allowed, shown_default
    from tdbench.regularizers.config import RegularizerConfig
    from tdbench.regularizers.registry import find_method
    from tdbench.user_code import short_name

    declaration = find_method(method)
    own = {
        key
        for base in declaration.__mro__
        if base not in RegularizerConfig.__mro__
        for key in vars(base).get("__annotations__", ())
    }
    return [
        {
            "method": short_name(method),
            "knob": name,
            "default": shown_default(field),
            "range": allowed(field),
            "also": " ".join(about(field).get("aliases", ())),
            "meaning": field.description or "",
            SOURCE: about(field).get("source", ""),
        }
        for name, field in declaration.model_fields.items()
        if name != "name" and (shared or name in own)
    ]


def settings() -> Rows:
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


def models() -> Rows:
    from tdbench.config.networks import NETWORKS

    return [{"model": name, "what it is": network.title} for name, network in NETWORKS.items()]


def data_sets() -> Rows:
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


def experiments() -> Rows:
    """Return a row per experiment that comes with tdbench."""
    from tdbench.sweep.experiment import read_experiment
    from tdbench.sweep.ready import ready_experiments

    read = {f"ablations/{path.name}": read_experiment(path) for path in ready_experiments()}
    return [{"experiment": name, "what it asks": one.title} for name, one in read.items() if one is not None]


def print_tables(tables: dict[str, Rows], *, whole: bool, sources: bool) -> None:
    """Print each table, as wide as the terminal: a line per row, or whole texts."""
    from tdbench.cli.console import console
    from tdbench.cli.output import say

    screen = console()
    for name, rows in tables.items():
        say(name)
        for line in lines_of(name, rows, screen.width, whole=whole, sources=sources):
            say(line)
        say("")
    if not whole:
        say("tdbench list WHAT: one of these, or a method, in whole; --sources: whence defaults")


def lines_of(name: str, rows: Rows, width: int, *, whole: bool, sources: bool) -> Iterator[str]:
    """Yield the lines of a table: short cells in columns, and the prose in what is left, cut off or folded."""
    short, prose = ([*rows[0]][:-1], [*rows[0]][-1])
    if name == "knobs":
        short, prose = ["knob", "default", "range"], "meaning"
    widths = {column: max(len(str(row[column])) for row in rows) for column in short}
    if not whole and "range" in widths:
        widths["range"] = min(widths["range"], RANGE_WIDTH)
    indent = sum(widths.values()) + 2 * len(widths)
    if width - indent < PROSE_WIDTH:
        indent = 6 if whole else indent
    method = None
    for row in rows:
        if row.get("method") != method and name == "knobs":
            method = row["method"]
            yield f"  {method}"
        cells = "  ".join(clipped(str(row[column]), widths[column]).ljust(widths[column]) for column in short)
        text = str(row[prose])
        if not whole:
            yield clipped(f"    {cells}  {text}", width)
            continue
        if row.get("also"):
            text += f"; also {', '.join(row['also'].split())}"
        folded = textwrap.wrap(text, max(PROSE_WIDTH, width - indent - 4), break_on_hyphens=False) or [""]
        if sources and row.get(SOURCE):
            folded += textwrap.wrap(f"default: {row[SOURCE]}", max(PROSE_WIDTH, width - indent - 4))
        if len(cells) + 2 <= indent:
            yield f"    {cells}  {folded.pop(0)}".rstrip()
        else:
            yield f"    {cells}".rstrip()
        yield from (f"    {' ' * indent}{line}" for line in folded)


def clipped(text: str, width: int) -> str:
    """Return a text, cut off where it is longer."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
