"""A run's network and its regularizer, each drawn from a seed of its own, so that neither changes with the other."""

import random

import numpy
import torch
from torch import nn

from tdbench.config import RunConfig
from tdbench.data.batches import derive_seed
from tdbench.data.sources import LoadedData
from tdbench.models.build import build
from tdbench.models.sites import Insertion, insert


def seeded_network(config: RunConfig, data: LoadedData) -> nn.Module:
    """Return the run's network with its initial weights, on the CPU."""
    torch.manual_seed(derive_seed(config.seed, "weights"))
    return build(config.model.name, data.num_classes, data.image_shape[0])


def seeded_insertion(model: nn.Module, config: RunConfig, image_shape: tuple[int, int, int]) -> Insertion:
    """Put the run's regularizer into its network; torch's global generator then goes on as in a run's first step.

    Raises:
        ConfigError: A site is unknown or unsuitable.
    """
    seed = derive_seed(config.seed, "regularizer")
    torch.manual_seed(seed)
    random.seed(seed)  # for the user's own code; tdbench draws from torch alone
    numpy.random.seed(seed % 2**32)  # noqa: NPY002
    return insert(model, config.regularizer, image_shape=image_shape)
