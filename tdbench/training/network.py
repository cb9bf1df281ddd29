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
from tdbench.models.published import build_published
from tdbench.models.sites import insert
from tdbench.models.tracing import evaluating, forward_once
from tdbench.models.transfer import Begun, load_file


def seeded_network(config: RunConfig, data: LoadedData) -> tuple[nn.Module, Begun | None]:
    """Return the run's network with its initial weights, on the CPU, and what it begins with; None: all is drawn.

    Raises:
        ConfigError: The network is unknown or cannot be built, the user's network does not fit the data, or weights
            cannot be had or are those of another network.
    """
    seed_all(derive_seed(config.seed, "weights"))
    model, num_classes, in_channels = config.model, data.num_classes, data.image_shape[0]
    begun = None
    if model.pretrained:
        network, begun = build_published(model.name, num_classes, in_channels)
    else:
        network = build(model.name, num_classes, in_channels)
    if ":" in model.name:  # not one of ours
        check_scores(network, model.name, data)
    if model.weights is not None:
        begun = load_file(network, model.weights, num_classes)
    return network, begun


def check_scores(network: nn.Module, name: str, data: LoadedData) -> None:
    """Check that a network puts out a score for each class, in evaluation and in training.

    Raises:
        ConfigError: It does not.
    """
    with evaluating(network), torch.no_grad():
        scores = forward_once(network, data.input_shape)  # which gives lazy modules their shapes, in the network itself
    shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < data.num_classes:
        raise ConfigError(
            f"{name} must put out a score for each of the {data.num_classes} classes, (1, {data.num_classes}) for one "
            f"image, got {shape}"
        )
    with suppress(Exception), torch.random.fork_rng(devices=[]), torch.no_grad():  # what it raises, training will tell
        trained = copy.deepcopy(network).train()(torch.zeros(2, *data.input_shape))
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
