"""`profile`: what methods cost, from the arguments to the tables in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdbench.config import Given
from tdbench.config.settings import configs_of
from tdbench.config.trust import trusting
from tdbench.errors import ConfigError
from tdbench.profiling.folder import check_folder, default_folder
from tdbench.profiling.measuring import Profile, Shape, measure, measure_batch_sizes, with_batch
from tdbench.profiling.timing import silent
from tdbench.regularizers.registry import method_names
from tdbench.store.profiles import BASELINE
from tdbench.store.progress import TellProgress
from tdbench.training.hardware import resolve
from tdbench.training.setup import Setup, without_compilation

SEARCH_SECONDS = 120.0  # for the largest batch size of each method


def profile(
    config: Given = None,
    regularizer: str | Sequence[str] | None = None,
    shape: Sequence[Shape] = (),
    *,
    seconds: float = 1.0,
    find_batch_size: bool = False,
    search_seconds: float = SEARCH_SECONDS,
    out: str | Path | None = None,
    report: TellProgress = silent,
    trust: bool = False,
    **settings: Any,
) -> Profile:
    """Measure what methods cost, alone and in a training step, write the tables, and return them.

    Configures the process for the run; nothing else should run on the machine meanwhile.

    Args:
        config: A run's configuration, or None: a YAML file, a tree of keys, or a configuration.
        regularizer: Methods; None: all that the network has a site for.
        shape: Feature maps (N, C, H, W) for the layer alone; empty: those at the network's sites.
        seconds: Time for each cell of a table.
        find_batch_size: Instead, double the batch size until memory or time runs out, for each method (None:
            targetdrop).
        search_seconds: Time of that search, for each method.
        out: Folder of the tables; None: a default one under `runs/`.
        report: Receives the progress.
        trust: Let code run that a YAML file names and the arguments do not.
        **settings: Keys as flags and `--set` take them; a knob goes to the methods that have it.

    Raises:
        TdbenchError: An option is wrong, or a user method raised; the results of the others are saved.
    """
    named = [regularizer] if isinstance(regularizer, str) else None if regularizer is None else list(regularizer)
    if find_batch_size and named is None:
        named = ["targetdrop"]
    with trusting([named, settings], trust):
        asked = prepare(config, settings, named, list(shape))
    given = named if regularizer is not None else None
    folder = default_folder(asked, given, shape, find_batch_size) if out is None else Path(out)
    check_folder(folder, find_batch_size)
    try:
        if find_batch_size:
            measure_batch_sizes(asked, seconds, search_seconds, report)
        else:
            measure(asked, seconds, report)
    finally:
        asked.save(folder)  # partial results too, after an interruption or an error
    return asked


def prepare(config: Given, given: Mapping[str, Any], named: list[str] | None, shapes: list[Shape]) -> Profile:
    """Return what is to be measured, and configure the process for it.

    Args:
        config: A run's configuration, or None.
        given: Settings that override it.
        named: The methods that were asked for; None: all that the network has a site for.
        shapes: Feature maps of the layer table; empty: those at the default sites of the network.

    Raises:
        TdbenchError: An option is wrong, or the network has no site for a method that was asked for.
    """
    methods = named or method_names()
    configs = configs_of(config, list(dict.fromkeys([BASELINE, *methods])), given)
    baseline = configs[BASELINE]
    probe = Setup(with_batch(without_compilation(baseline), 1))
    insertion = probe.insert()
    insertion.remove()
    left_out = {}
    for name in methods:
        try:
            probe.insert(configs[name]).remove()
        except ConfigError as error:
            if named:
                raise
            left_out[name] = str(error)
    return Profile(
        configs,
        [name for name in methods if name not in left_out],
        left_out,
        shapes or list(dict.fromkeys((baseline.training.batch_size, *site) for site in insertion.shapes.values())),
        resolve(baseline.hardware),
        probe.data,
    )
