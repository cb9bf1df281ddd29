"""`tdbench profile`: what each method costs, alone and in a training step, against what the machine can do."""

import logging
import math
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tdbench.cli import options
from tdbench.errors import ConfigError, FolderError

if TYPE_CHECKING:
    from tdbench.cli.measuring import Profile, Shape

_RUN = "The run"
FEW = 3  # methods, which one line can name

Methods = Annotated[
    str | None,
    typer.Option("--regularizer", metavar="A,B", help="Methods; all, where none is named.", rich_help_panel=_RUN),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NxCxHxW",
        help="Map for the layer alone, such as 128x64x32x32; repeatable. Default: those at the network's sites.",
        rich_help_panel=_RUN,
    ),
]
Seconds = Annotated[float, typer.Option(metavar="F", help="Time for each cell of a table.", rich_help_panel=_RUN)]
FindBatchSize = Annotated[
    bool,
    typer.Option(
        "--find-batch-size",
        help="Instead, double the batch until memory ends, for each method named (default: targetdrop).",
        rich_help_panel=_RUN,
    ),
]
MemoryFormat = Annotated[
    str | None, typer.Option(metavar="NAME", help="channels_last or contiguous.", rich_help_panel="The machine")
]


def profile_command(
    context: typer.Context,
    config: options.ConfigFile = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    model: options.Model = None,
    regularizer: Methods = None,
    sites: options.Sites = None,
    batch_size: options.BatchSize = None,
    shape: Shapes = None,
    seconds: Seconds = 1.0,
    find_batch_size: FindBatchSize = False,
    seed: options.Seed = None,
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    memory_format: MemoryFormat = None,
    compile: options.Compile = None,
    threads: options.Threads = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Measure what each method costs, alone and in a training step; with no argument, all of them in ResNet-8.

    The layer alone is compared with a multiplication by a scalar, the step with the same step without a method. The
    tables go to a folder of their own under runs/, unless --out names another.
    """
    from tdbench.config import FLAGS

    begun = time.perf_counter()
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--seconds must be greater than 0 and finite, got {seconds}")
    methods, shapes = parse_methods(regularizer), parse_shapes(shape or [])
    given = {name: context.params[name] for name in FLAGS if name in context.params and name != "regularizer"}
    overrides = options.overrides(given | {"hardware.memory_format": memory_format}, assignments)

    hush_torch()
    from tdbench.cli.measuring import measure, measure_batch_sizes, prepare
    from tdbench.cli.progress import progress
    from tdbench.cli.signals import stop_signals

    profile = prepare(config, overrides, methods or (["targetdrop"] if find_batch_size else None), shapes)
    folder = out or default_folder(profile)
    check_folder(folder)
    try:
        with stop_signals(), progress(silent=quiet or json) as report:
            if find_batch_size:
                measure_batch_sizes(profile, seconds, report)
            else:
                measure(profile, seconds, report)
    finally:
        profile.save(folder)  # what an interruption or an error leaves of it, too
    show(profile, folder, time.perf_counter() - begun, quiet=quiet, json=json)


def parse_methods(text: str | None) -> list[str] | None:
    """Return the methods of `--regularizer`, each once; None where it was not given.

    Raises:
        ConfigError: It names none.
    """
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"--regularizer must name at least one method, got {text!r}")
    return names


def parse_shapes(texts: Sequence[str]) -> list["Shape"]:
    """Return the shapes of `--shape`, each once.

    Raises:
        ConfigError: One is no NxCxHxW.
    """
    shapes: list[Shape] = []
    for text in (part.strip() for entry in texts for part in entry.split(",")):
        if not re.fullmatch(r"[1-9][0-9]{0,8}([x×][1-9][0-9]{0,8}){3}", text):
            rule = "NxCxHxW, four whole numbers of at least 1 such as 128x64x32x32"
            raise ConfigError(f"--shape must be {rule}, got {text!r}")
        samples, channels, height, width = map(int, re.split("[x×]", text))
        shapes.append((samples, channels, height, width))
    return list(dict.fromkeys(shapes))


def hush_torch() -> None:
    """Keep the chatter of torch's profiler and build tools off stderr; call it before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def default_folder(profile: "Profile") -> Path:
    """Return a folder named after the network, the batch and the machine; a later profile of the same replaces it."""
    device, precision = profile.hardware.device.type, profile.hardware.precision
    parts = ("profile", profile.baseline.model.name, f"batch{profile.batch_size}", precision, device)
    return Path("runs") / re.sub(r"[^\w.-]+", "-", "-".join(parts))


def check_folder(folder: Path) -> None:
    """Make the folder, before anything is measured.

    Raises:
        FolderError: It cannot be made, or holds a run, whose files would be overwritten.
    """
    from tdbench.cli.list import make_folder
    from tdbench.results.store import CONFIG

    make_folder(folder)
    if (folder / CONFIG).exists():
        raise FolderError(f"--out {folder} holds a run; take another folder for its profile")


def show(profile: "Profile", folder: Path, took_s: float, *, quiet: bool, json: bool) -> None:
    """Print the tables, or what `--quiet` and `--json` ask for."""
    from tdbench.cli.terminal import say
    from tdbench.profiling.tables import layer_tables, machine_lines, step_table

    if json:
        import json as json_module

        found = {name: getattr(profile, name) for name in ("layer", "step", "machine", "left_out")}
        say(json_module.dumps(found, indent=2, ensure_ascii=False))
        return
    if not quiet:
        for title, table in layer_tables(profile.layer).items():
            print_table(title, table)
        where = f"{profile.baseline.model.name}, {profile.facts()['precision']}, on {profile.hardware.name()}"
        print_table(f"The training step of {where}", step_table(profile.step))
        for line in machine_lines(profile.machine) if profile.machine else ():
            say(line)
        for name, reason in profile.left_out.items():
            say(f"left out: {name}: {reason}")
    say(closing_line(profile, folder, took_s))


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0]:
        is_name = column == "method"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def closing_line(profile: "Profile", folder: Path, took_s: float) -> str:
    """Return what was done, in one line."""
    where = f"{profile.baseline.model.name} ({profile.hardware.precision}) on {profile.hardware.name()}"
    if profile.layer:
        alone = ", ".join(map("×".join, (map(str, shape) for shape in profile.shapes)))
        num_methods = len(profile.methods)
        what = ", ".join(profile.methods) if num_methods <= FEW else f"{num_methods} methods"
        return f"measured {what} alone at {alone} and in a step of {where} in {took_s:.0f} s; {folder}"
    largest = dict.fromkeys(profile.methods, 0)
    for row in profile.step:
        if row["status"] == "ok":
            largest[row["method"]] = max(largest[row["method"]], row["batch_size"])
    sizes = ", ".join(f"{method} {size}" for method, size in largest.items())
    return f"largest batch tried that fits in {where}: {sizes}; {folder}"
