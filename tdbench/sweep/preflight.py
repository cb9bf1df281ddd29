"""What can be known before a sweep: whether its data, networks, sites and devices are there, and how long it takes.

Both run in a process of their own, so that the driver never holds a data set, and one process alone downloads it.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from typing import Any, TypeVar

from tdbench.config import RunConfig
from tdbench.errors import TdbenchError
from tdbench.sweep.executors import main_module_hidden, trial_context
from tdbench.sweep.worker import watch_parent

WARMUP_STEPS, TIMED_STEPS = 3, 5

T = TypeVar("T")


def in_another_process(function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function returns, or raise what it raises, in a process like that of a trial."""
    pool = ProcessPoolExecutor(1, mp_context=trial_context(), initializer=begin)
    with main_module_hidden(), pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise TdbenchError(
                "the process that looks at the sweep's trials was killed; is the memory full?"
            ) from error


def begin() -> None:
    """Make the process end with its parent, and keep what the user's code prints out of what the command prints."""
    watch_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def check_trials(configs: Iterable[RunConfig]) -> None:
    """Load each data set, build each network with its sites, and find each device, once.

    Raises:
        TdbenchError: Something is missing; nothing was trained.
    """
    distinct = {shape_of(config, with_method=True): config for config in configs}
    in_another_process(check, [config.dump() for config in distinct.values()])


def check(trees: list[dict[str, Any]]) -> None:
    """Build the run of each tree, and drop it again."""
    from tdbench.data.sources import LoadedData, load_data
    from tdbench.models.build import find_network
    from tdbench.training.matching import solve_match
    from tdbench.training.run import Run

    configs = [without_compilation(RunConfig.model_validate(tree)) for tree in trees]
    for config in configs:
        find_network(config.model.name)  # a misspelt name should not wait for the data
    loaded: dict[str, LoadedData] = {}
    for config in configs:
        key = config.data.model_dump_json()
        if key not in loaded:
            loaded[key] = load_data(config.data, config.seed)
        Run(solve_match(config, loaded[key]), data=loaded[key]).insertion.check_blocks()


def time_left_s(waiting: Iterable[RunConfig], finished: Iterable[tuple[RunConfig, float]], num_at_once: int) -> float:
    """Return how long the waiting trials will take, in seconds of the clock.

    Args:
        waiting: The trials to come.
        finished: Trials that are done, with their seconds; those of the same shape tell how long another takes.
        num_at_once: How many run at the same time.
    """
    seconds: dict[str, list[float]] = {}
    for config, wall_s in finished:
        seconds.setdefault(shape_of(config), []).append(wall_s)
    waiting = list(waiting)
    unknown = {shape: config for config in waiting if (shape := shape_of(config)) not in seconds}
    if unknown:
        estimates = in_another_process(estimate_s, [config.dump() for config in unknown.values()])
        seconds |= {shape: [estimate] for shape, estimate in zip(unknown, estimates, strict=True)}
    return sum(statistics.median(seconds[shape_of(config)]) for config in waiting) / max(1, num_at_once)


def estimate_s(trees: list[dict[str, Any]]) -> list[float]:
    """Return the seconds that each run would take, from a few of its steps and one evaluation."""
    return [estimate_one_s(RunConfig.model_validate(tree)) for tree in trees]


def estimate_one_s(config: RunConfig) -> float:
    """Return the seconds that a run would take: what it costs to begin, its steps, its evaluations."""
    from tdbench.training.run import Run

    begun = time.perf_counter()
    run = Run(without_compilation(config))
    run.begin_steps()
    num_batches = min(WARMUP_STEPS + TIMED_STEPS, len(run.batches))
    marks = []
    for images, labels in run.batches.epoch(1, 0, num_batches):
        run.train_step(images, labels, 0)
        run.hardware.synchronize()
        marks.append(time.perf_counter())
    begin_s = marks[0] - begun
    steps_s = [end - start for start, end in pairwise(marks)] or [begin_s]
    run.evaluate()
    evaluation_s = time.perf_counter() - marks[-1]
    num_epochs = -(-run.num_steps // run.steps_per_epoch)
    num_evaluations = -(-num_epochs // config.training.eval_every)
    return begin_s + statistics.median(steps_s[-TIMED_STEPS:]) * run.num_steps + evaluation_s * num_evaluations


def without_compilation(config: RunConfig) -> RunConfig:
    """Return the same run, not compiled: compilation would take longer than what is looked at."""
    return config.model_copy(update={"hardware": config.hardware.model_copy(update={"compile": False})})


def shape_of(config: RunConfig, with_method: bool = False) -> str:
    """Return what runs must share to take as long as one another; with the method's knobs only if asked."""
    regularizer: Mapping[str, Any] = config.regularizer.model_dump(mode="json")
    if not with_method:
        regularizer = {"name": regularizer["name"]}
    tree = config.model_dump(mode="json", include={"data", "augment", "model", "training", "hardware"})
    return json.dumps([regularizer, tree], sort_keys=True)
