"""`tdbench profile`: what each method costs, alone and in a training step, against what the machine can do."""

import logging
import math
import os
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tdbench.cli import options
from tdbench.cli.starting import Start
from tdbench.errors import ConfigError, TdbenchError

_PROFILE = "The profile"
MOST_ELEMENTS = 2**60  # of a map: beyond, torch cannot count the bytes of its values and indices

Shape = tuple[int, int, int, int]

Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NxCxHxW",
        help="Map for the layer alone, such as 128x64x32x32; repeatable. Default: those at the network's sites.",
        rich_help_panel=_PROFILE,
    ),
]
Seconds = Annotated[float, typer.Option(metavar="F", help="Time for each cell of a table.", rich_help_panel=_PROFILE)]
FindBatchSize = Annotated[
    bool,
    typer.Option(
        "--find-batch-size",
        help="Instead, double the batch until memory or --search-seconds end, for each method named (default: "
        "targetdrop).",
        rich_help_panel=_PROFILE,
    ),
]
SearchSeconds = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Time of --find-batch-size for each method; then the largest so far stands (default: 120).",
        rich_help_panel=_PROFILE,
    ),
]
MemoryFormat = Annotated[
    str | None, typer.Option(metavar="NAME", help="channels_last or contiguous.", rich_help_panel="The machine")
]


@options.with_run_flags
def profile_command(
    given: dict[str, Any],
    config: options.ConfigFile = None,
    memory_format: MemoryFormat = None,
    shape: Shapes = None,
    seconds: Seconds = 1.0,
    find_batch_size: FindBatchSize = False,
    search_seconds: SearchSeconds = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Measure what each method costs, alone and in a training step; with no argument, all of them in ResNet-8.

    The layer alone is compared with a multiplication by a scalar, the step with the same step without a method. The
    tables go to a folder of their own under runs/, unless --out names another.
    """
    from tdbench.config.settings import configs_of
    from tdbench.regularizers.registry import method_names

    start, begun = Start(), time.perf_counter()
    for flag, value in (("--seconds", seconds), ("--search-seconds", search_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{flag} must be greater than 0 and finite, got {value}")
    if find_batch_size and shape:
        raise ConfigError("--shape is for the layer alone, which --find-batch-size does not measure; leave one out")
    if search_seconds is not None and not find_batch_size:
        raise ConfigError("--search-seconds is for --find-batch-size; leave it out, or give both")
    methods, shapes = options.methods_in(given), parse_shapes(shape or [])
    if memory_format is not None:
        given["hardware.memory_format"] = memory_format
    if not options.names_user_method(given, methods):
        configs_of(config, methods or method_names(), given)  # what is wrong should not wait for torch

    hush_torch()
    start.announce("torch, the data and the network", quiet or json, given.get("threads"))
    from tdbench.cli.profile_terminal import show
    from tdbench.cli.progress import progress
    from tdbench.cli.signals import stop_signals
    from tdbench.profiling.failing import failure_line
    from tdbench.profiling.profile import SEARCH_SECONDS, profile
    from tdbench.store.progress import telling

    with stop_signals(), progress(silent=quiet or json) as report, telling(report):
        measured = profile(
            config,
            methods,
            shapes,
            seconds=seconds,
            find_batch_size=find_batch_size,
            search_seconds=search_seconds or SEARCH_SECONDS,
            out=out,
            report=report,
            **given,
        )
    if measured.folder is not None:
        show(measured, measured.folder, time.perf_counter() - begun, quiet=quiet, json=json)
    if measured.failures:  # told last, so that it does not take the other methods' figures with it
        raise TdbenchError(failure_line(measured.failures))


def parse_shapes(texts: Sequence[str]) -> list[Shape]:
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
