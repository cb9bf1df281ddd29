"""`tdbench profile`: what each method costs, alone and in a training step, against what the machine can do."""

import logging
import math
import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tdbench.cli import options
from tdbench.errors import ConfigError, TdbenchError

if TYPE_CHECKING:
    from tdbench.cli.measuring import Shape

_RUN = "The run"
MOST_ELEMENTS = 2**60  # of a map: beyond, torch cannot count the bytes of its values and indices
SEARCH_SECONDS = 120


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
    from tdbench.cli.failing import failure_line
    from tdbench.cli.measuring import measure, measure_batch_sizes, prepare
    from tdbench.cli.profile_folder import check_folder, default_folder
    from tdbench.cli.profile_terminal import show
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
        raise TdbenchError(failure_line(profile.failures))


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
