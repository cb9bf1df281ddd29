"""What can be known of runs before any is trained: the answers to what the bench asks, as plain data."""

import statistics
import time
from itertools import pairwise
from typing import Any

from tdbench.config import HardwareConfig, RunConfig
from tdbench.data.sources import LoadedData, load_data
from tdbench.errors import ConfigError
from tdbench.models.build import check_network
from tdbench.regularizers.config import Declaration, declaration_of
from tdbench.regularizers.registry import find_method
from tdbench.regularizers.user import configure
from tdbench.training.hardware import find_device, num_gpus
from tdbench.training.inputs import images_for
from tdbench.training.matching import solve_match
from tdbench.training.optimizer import LearningRates, check_optimizer, make_optimizer
from tdbench.training.run import Run
from tdbench.training.schedule import Schedule, num_steps_of
from tdbench.training.setup import Setup, without_compilation

WARMUP_STEPS, TIMED_STEPS = 3, 5


def check(trees: list[dict[str, Any]]) -> None:
    """Load each data set, build each network with its regularizer, and find each device, once.

    Raises:
        TdbenchError: Something is missing or unsuitable.
    """
    configs = [without_compilation(RunConfig.model_validate(tree)) for tree in trees]
    for config in configs:
        check_optimizer(config.optimizer)
        check_network(config.model.name)  # a misspelt name should not wait for the data
    loaded: dict[str, LoadedData] = {}
    for config in configs:
        images = images_for(config)
        key = images.model_dump_json()
        if key not in loaded:
            loaded[key] = load_data(images, config.seed)
        setup = Setup(solve_match(config, loaded[key]), loaded[key])
        steps_per_epoch = len(setup.train_batches())
        setup.insert().check_blocks()
        rates = LearningRates(make_optimizer(setup.model, config.optimizer, setup.hardware.device))
        num_steps = num_steps_of(config.training, steps_per_epoch)
        Schedule(config.schedule, num_steps, steps_per_epoch).lr_at(num_steps - 1, rates.peaks[0])


def estimated_s(trees: list[dict[str, Any]]) -> list[float]:
    """Return the seconds that each run would take: what it costs to begin, its steps, its evaluations."""
    return [_estimated_s(RunConfig.model_validate(tree)) for tree in trees]


def _estimated_s(config: RunConfig) -> float:
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
    run.evaluate_average()
    run.validate()
    evaluation_s = time.perf_counter() - marks[-1]
    num_epochs = -(-run.num_steps // run.steps_per_epoch)
    num_evaluations = -(-num_epochs // config.training.eval_every)
    return begin_s + statistics.median(steps_s[-TIMED_STEPS:]) * run.num_steps + evaluation_s * num_evaluations


def device(tree: dict[str, Any]) -> tuple[str, int]:
    """Return the kind of device that a configuration means here, and how many CUDA GPUs there are.

    Raises:
        DeviceError: There is no such device.
    """
    return find_device(HardwareConfig.model_validate(tree).device).type, num_gpus()


def read_methods(trees: list[dict[str, Any]]) -> list[dict[str, Any] | ConfigError]:
    """Return the trees of some methods with the values that the methods themselves make of them, or why they do not."""
    return [_read_method(tree) for tree in trees]


def _read_method(tree: dict[str, Any]) -> dict[str, Any] | ConfigError:
    try:
        return configure(find_method(tree["name"]), tree).model_dump(mode="json")
    except ConfigError as error:
        return error


def declarations(names: list[str]) -> dict[str, Declaration]:
    """Return what the user's own methods `file.py:NAME` declare.

    Raises:
        ConfigError: A file does not import, or does not hold a layer of that name.
    """
    return {name: declaration_of(find_method(name)) for name in names}
