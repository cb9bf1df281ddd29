"""A run's network and its regularizer, each drawn from its own seed, so that neither depends on the other."""

import copy
import random
from collections.abc import Sized
from contextlib import suppress

import numpy
import torch
from torch import Tensor, nn

from tdbench.config import RunConfig
from tdbench.data.seeds import derive_seed
from tdbench.data.sources import LoadedData
from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.models.insertion import Insertion
from tdbench.models.sites import insert
from tdbench.models.tracing import evaluating, forward_once


def seeded_network(config: RunConfig, data: LoadedData) -> nn.Module:
    """Return the run's network with its initial weights, on the CPU.

    Raises:
        ConfigError: The network is unknown or cannot be built, or the user's network does not fit the data.
    """
    seed_all(derive_seed(config.seed, "weights"))
    network = build(config.model.name, data.num_classes, data.image_shape[0])
    if ":" in config.model.name:  # not one of ours
        check_scores(network, config.model.name, data)
    return network


def check_scores(network: nn.Module, name: str, data: LoadedData) -> None:
    """Check that a network puts out a score for each class, in evaluation and in training.

    Raises:
        ConfigError: It does not.
    """
    with evaluating(network), torch.no_grad():
        scores = forward_once(network, data.image_shape)  # which gives lazy modules their shapes, in the network itself
    shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < data.num_classes:
        raise ConfigError(
            f"{name} must put out a score for each of the {data.num_classes} classes, (1, {data.num_classes}) for one "
            f"image, got {shape}"
        )
    with suppress(Exception), torch.random.fork_rng(devices=[]), torch.no_grad():  # what it raises, training will tell
        trained = copy.deepcopy(network).train()(torch.zeros(2, *data.image_shape))
        if not isinstance(trained, Tensor):
            shape = (
                f"{type(trained).__name__} of {len(trained)}" if isinstance(trained, Sized) else type(trained).__name__
            )
    if isinstance(shape, str):
        raise ConfigError(
            f"{name} must put out its scores alone in training too, got {shape}; leave auxiliary outputs out"
        )


def seed_all(seed: int) -> None:
    """Seed torch's global generators, and for the user's own code those of Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002


def seeded_insertion(model: nn.Module, config: RunConfig, image_shape: tuple[int, int, int]) -> Insertion:
    """Insert the run's regularizer into its network; this seeds torch's global generator as for a run's first step.

    Nothing is counted yet.

    Raises:
        ConfigError: A site is unknown or unsuitable.
    """
    seed_all(derive_seed(config.seed, "regularizer"))
    insertion = insert(model, config.regularizer, image_shape=image_shape)
    insertion.meter(None)  # for the run itself to begin
    return insertion
