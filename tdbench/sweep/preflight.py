"""What is asked of the lab before a sweep: whether its data, networks and sites are there, and how long it takes.

So the driver never holds a data set, and one process alone downloads it.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tdbench.config import RunConfig
from tdbench.sweep import lab
from tdbench.sweep.slots import Slots


def check_trials(configs: Iterable[RunConfig], slots: Slots, finished: Iterable[RunConfig] = ()) -> None:
    """Load each data set, build each network with its sites, and find each device, once.

    Args:
        configs: The trials to come.
        slots: Their places, at the first of which this is done.
        finished: Trials that have shown already that those which differ in their seed alone can run.

    Raises:
        TdbenchError: Something is missing; nothing was trained.
    """
    distinct = {shape_of(config, with_method=True): config for config in configs}
    for config in finished:
        distinct.pop(shape_of(config, with_method=True), None)
    if distinct:
        lab.ask(
            "tdbench.training.ahead:check",
            [config.dump() for config in distinct.values()],
            environment=slots.environments[0],
        )


def times_left_s(
    waiting: tuple[Sequence[RunConfig], Sequence[RunConfig]],
    finished: Iterable[tuple[RunConfig, float]],
    slots: Slots,
) -> tuple[float, float]:
    """Return how long two sets of waiting trials will take, in seconds of the clock.

    Args:
        waiting: The trials to come at least, and at most.
        finished: Trials that are done, with their seconds; those of the same shape tell how long another takes.
        slots: Their places: how many run at the same time, and where another is measured.
    """
    seconds: dict[str, list[float]] = {}
    for config, wall_s in finished:
        seconds.setdefault(shape_of(config), []).append(wall_s)
    unknown = {shape: one for trials in waiting for one in trials if (shape := shape_of(one)) not in seconds}
    if unknown:
        estimates = lab.ask(
            "tdbench.training.ahead:estimated_s",
            [config.dump() for config in unknown.values()],
            environment=slots.environments[0],
        )
        seconds |= {shape: [estimate] for shape, estimate in zip(unknown, estimates, strict=True)}
    takes_s = {shape: statistics.median(known) for shape, known in seconds.items()}
    least, most = (sum(takes_s[shape_of(one)] for one in trials) / len(slots.environments) for trials in waiting)
    return least, most


def shape_of(config: RunConfig, with_method: bool = False) -> str:
    """Return what runs must share to take as long as one another; with the method's knobs only if asked."""
    regularizer: Mapping[str, Any] = config.regularizer.model_dump(mode="json")
    if not with_method:
        regularizer = {"name": regularizer["name"]}
    tree = config.model_dump(mode="json", include={"data", "augment", "model", "training", "hardware"})
    optimizer = config.optimizer.model_dump(mode="json", exclude={"lr", "momentum", "nesterov", "weight_decay"})
    schedule = None if config.schedule.is_ours else config.schedule.model_dump(mode="json")
    return json.dumps([regularizer, tree, optimizer, schedule], sort_keys=True)
