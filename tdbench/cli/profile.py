"""`tdbench profile`: what each method costs, alone and in a training step, against what the machine can do."""

import hashlib
import logging
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import options
from tdbench.errors import ConfigError, FolderError

if TYPE_CHECKING:
    from tdbench.cli.measuring import Profile, Shape

_RUN = "The run"
FEW = 3  # methods, which one line can name
MOST_ELEMENTS = 2**60  # of a map: beyond, torch cannot count the bytes of its values and indices
LONGEST_NAME = 120  # of a folder of our own
SEARCH_SECONDS = 120

NAMED_KEYS = {  # which a part of a default folder's name stands for anyway, or which change nothing of what is measured
    "model.name",
    "regularizer.name",
    "training.batch_size",
    "hardware.precision",
    "hardware.device",
}


def parse_out(text: str) -> Path:
    """Return the folder of `--out`.

    Raises:
        ConfigError: It is empty, which a Path would take for the working folder.
    """
    if not text:
        raise ConfigError("--out must name a folder, got '' (. is the working folder)")
    return Path(text)


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
        help="Instead, double the batch until memory or --search-seconds end, for each method named (default: "
        "targetdrop).",
        rich_help_panel=_RUN,
    ),
]
SearchSeconds = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help=f"Time of --find-batch-size for each method; then the largest so far stands (default: {SEARCH_SECONDS}).",
        rich_help_panel=_RUN,
    ),
]
MemoryFormat = Annotated[
    str | None, typer.Option(metavar="NAME", help="channels_last or contiguous.", rich_help_panel="The machine")
]
Out = Annotated[
    Path | None,
    typer.Option(parser=parse_out, metavar="DIR", help="Folder of the results.", rich_help_panel="Output"),
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
    search_seconds: SearchSeconds = None,
    seed: options.Seed = None,
    assignments: options.Set = None,
    device: options.Device = None,
    precision: options.Precision = None,
    memory_format: MemoryFormat = None,
    compile: options.Compile = None,
    threads: options.Threads = None,
    out: Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Measure what each method costs, alone and in a training step; with no argument, all of them in ResNet-8.

    The layer alone is compared with a multiplication by a scalar, the step with the same step without a method. The
    tables go to a folder of their own under runs/, unless --out names another.
    """
    from tdbench.config import FLAGS

    begun = time.perf_counter()
    for flag, value in (("--seconds", seconds), ("--search-seconds", search_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{flag} must be greater than 0 and finite, got {value}")
    if find_batch_size and shape:
        raise ConfigError("--shape is for the layer alone, which --find-batch-size does not measure; leave one out")
    if search_seconds is not None and not find_batch_size:
        raise ConfigError("--search-seconds is for --find-batch-size; leave it out, or give both")
    methods, shapes = parse_methods(regularizer), parse_shapes(shape or [])
    given = {name: context.params[name] for name in FLAGS if name in context.params and name != "regularizer"}
    overrides = options.overrides(given | {"hardware.memory_format": memory_format}, assignments)

    hush_torch()
    from tdbench.cli.measuring import failure_line, measure, measure_batch_sizes, prepare
    from tdbench.cli.progress import progress
    from tdbench.cli.signals import stop_signals

    profile = prepare(config, overrides, methods or (["targetdrop"] if find_batch_size else None), shapes)
    folder = out or default_folder(profile, methods, shapes, find_batch_size)
    check_folder(folder, find_batch_size)
    try:
        with stop_signals(), progress(silent=quiet or json) as report:
            if find_batch_size:
                measure_batch_sizes(profile, seconds, search_seconds or SEARCH_SECONDS, report)
            else:
                measure(profile, seconds, report)
    finally:
        profile.save(folder)  # what an interruption or an error leaves of it, too
    if profile.layer or profile.step:
        show(profile, folder, time.perf_counter() - begun, quiet=quiet, json=json)
    if profile.failures:  # told last, so that it does not take the other methods' figures with it
        raise ConfigError(failure_line(profile.failures))


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
        ConfigError: One is no NxCxHxW, or too large to be counted.
    """
    shapes: list[Shape] = []
    for text in (part.strip() for entry in texts for part in entry.split(",")):
        if not re.fullmatch(r"[1-9][0-9]{0,8}([x×][1-9][0-9]{0,8}){3}", text):
            rule = "NxCxHxW, four whole numbers of at least 1 such as 128x64x32x32"
            raise ConfigError(f"--shape must be {rule}, got {text!r}")
        samples, channels, height, width = map(int, re.split("[x×]", text))
        if samples * channels * height * width > MOST_ELEMENTS:
            raise ConfigError(f"--shape must have at most 2^60 elements, got {text!r}")
        shapes.append((samples, channels, height, width))
    return list(dict.fromkeys(shapes))


def hush_torch() -> None:
    """Keep the chatter of torch's profiler and build tools off stderr; call it before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def default_folder(
    profile: "Profile", methods: Sequence[str] | None, shapes: Sequence["Shape"], find_batch_size: bool
) -> Path:
    """Return a folder named after what was given; only a later profile of the same replaces it.

    Args:
        profile: What is to be measured.
        methods: Those that were named, or None.
        shapes: Those that were given.
        find_batch_size: Whether the largest batch is searched, whose table must not replace that of a profile.
    """
    from tdbench.config.user_code import label

    parts = [
        "profile",
        label(profile.baseline.model.name),
        *map(label, methods or ()),
        *("x".join(map(str, shape)) for shape in shapes),
        f"batch{profile.batch_size}",
        profile.hardware.precision,
        profile.hardware.device.type,
        *settings(profile),
        *(["largest-batch"] if find_batch_size else []),
    ]
    whole = "-".join(parts)
    name = re.sub(r"[^\w.-]+", "-", whole, flags=re.ASCII)
    if len(name) > LONGEST_NAME:
        digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
        name = f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"
    return Path("runs") / name


def settings(profile: "Profile") -> list[str]:
    """Return the settings that differ from their defaults, in a word each; those in NAMED_KEYS aside."""
    from tdbench.config import flatten, known_keys

    words: dict[str, str] = {}
    for config in profile.configs.values():
        fields = known_keys(type(config.regularizer))
        if config.data.name != "folder":  # there the place is the data set
            del fields["data.root"]
        for key, value in flatten(config.model_dump()).items():
            if key in fields and key not in NAMED_KEYS and value != fields[key].get_default(call_default_factory=True):
                words[key] = in_a_word(key.rpartition(".")[2], value)
    return list(words.values())


def in_a_word(name: str, value: Any) -> str:
    """Return a setting as a part of a file name: `compile`, `cifar10`, `stage1-stage2`, `block_size3`."""
    if value is True:
        return name
    if isinstance(value, (str, Path)):
        return Path(value).name
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{name}{value}"


def check_folder(folder: Path, find_batch_size: bool) -> None:
    """Make the folder and write into it, before anything is measured.

    Raises:
        FolderError: It cannot be made or written, or holds a run, or tables that a search for the largest batch does
            not measure anew.
    """
    from tdbench.cli.list import make_folder
    from tdbench.cli.measuring import LAYER
    from tdbench.results.store import CONFIG

    make_folder(folder)
    if (folder / CONFIG).exists():
        raise FolderError(f"--out {folder} holds a run; take another folder for its profile")
    if find_batch_size and (folder / LAYER).exists():
        raise FolderError(f"--out {folder} holds a profile; take another folder for the search of the largest batch")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tdbench-"):
            pass
    except OSError as error:
        raise FolderError(f"--out {folder} must be a folder that can be written: {error.strerror}") from error


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
    if not profile.layer:
        return f"largest batch tried that fits in {where}: {largest_batches(profile) or 'none'}; {folder}"
    alone, step = measured_rows(profile.layer, profile.methods), measured_rows(profile.step, profile.methods)
    shapes = dict.fromkeys(row["shape"].replace("x", "×") for row in alone)
    places = [f"alone at {', '.join(shapes)}"] if alone else []
    places += [f"in a step of {where}"] if step else []
    methods = list(dict.fromkeys(row["method"] for row in (*alone, *step)))
    what = ", ".join(methods) if len(methods) <= FEW else f"{len(methods)} methods"
    empty = Counter(row["status"] for row in (*profile.layer, *profile.step) if row["status"] != "ok")
    rest = "".join(f"; {status} in {count} row{'s' * (count > 1)}" for status, count in empty.items())
    return f"measured {what or 'nothing'} {' and '.join(places)}".rstrip() + f" in {took_s:.0f} s{rest}; {folder}"


def measured_rows(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the rows of the methods that have figures."""
    return [row for row in rows if row["method"] in methods and row["status"] == "ok"]


def largest_batches(profile: "Profile") -> str:
    """Return the largest batch that fits with each method, and whether time ended before memory."""
    from tdbench.profiling.step import OUT_OF_TIME

    largest = dict.fromkeys((method for method in profile.methods if method not in profile.failures), 0)
    for row in measured_rows(profile.step, list(largest)):
        largest[row["method"]] = max(largest[row["method"]], row["batch_size"])
    stopped = {row["method"] for row in profile.step if row["status"] == OUT_OF_TIME}
    return ", ".join(
        f"{method} {size}" + " (stopped for time; --search-seconds gives more)" * (method in stopped)
        for method, size in largest.items()
    )
