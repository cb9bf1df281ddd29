"""A run's network and its regularizer, each drawn from its own seed, so that neither depends on the other."""

import random

import numpy
import torch
from torch import Tensor, nn

from tdbench.config import RunConfig
from tdbench.data.batches import derive_seed
from tdbench.data.sources import LoadedData
from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.models.sites import Insertion, insert
from tdbench.models.tracing import evaluating, forward_once
from tdbench.user_code import is_user_code


def seeded_network(config: RunConfig, data: LoadedData) -> nn.Module:
    """Return the run's network with its initial weights, on the CPU.

    Raises:
        ConfigError: The network is unknown or cannot be built, or the user's network does not fit the data.
    """
    torch.manual_seed(derive_seed(config.seed, "weights"))
    network = build(config.model.name, data.num_classes, data.image_shape[0])
    if is_user_code(config.model.name):
        with evaluating(network), torch.no_grad():
            scores = forward_once(network, data.image_shape)
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < data.num_classes:
            raise ConfigError(
                f"{config.model.name} must put out a score for each of the {data.num_classes} classes, "
                f"(1, {data.num_classes}) for one image, got {shape}"
            )
    return network


def seeded_insertion(model: nn.Module, config: RunConfig, image_shape: tuple[int, int, int]) -> Insertion:
    """Insert the run's regularizer into its network; this seeds torch's global generator as for a run's first step.

    Raises:
        ConfigError: A site is unknown or unsuitable.
    """
    seed = derive_seed(config.seed, "regularizer")
    torch.manual_seed(seed)
    random.seed(seed)  # for the user's own code; tdbench draws from torch alone
    numpy.random.seed(seed % 2**32)  # noqa: NPY002
    return insert(model, config.regularizer, image_shape=image_shape)
