"""Networks by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from tdbench.errors import ConfigError, unknown
from tdbench.models.resnet import cifar_resnet, wide_stem_resnet


@dataclass(frozen=True)
class Network:
    """What is known about a network before it is built."""

    title: str
    factory: Callable[[int, int], nn.Module]  # (num_classes, in_channels) -> network


NETWORKS: dict[str, Network] = {
    **{
        f"resnet{depth}": Network(f"ResNet-{depth}, 16/32/64 channels", partial(cifar_resnet, depth))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet18": Network("ResNet-18, 3×3 stem, 64/128/256/512 channels", partial(wide_stem_resnet, (2, 2, 2, 2))),
    "resnet34": Network("ResNet-34, 3×3 stem, 64/128/256/512 channels", partial(wide_stem_resnet, (3, 4, 6, 3))),
}


def find_network(name: str) -> Network:
    """Return a network by its name.

    Raises:
        ConfigError: There is no such network; the nearest one is named.
    """
    if name not in NETWORKS:
        raise ConfigError(unknown("model", name, NETWORKS))
    return NETWORKS[name]


def build(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Return the network `name` with fresh weights, drawn from torch's global generator.

    Raises:
        ConfigError: There is no such network; the nearest one is named.
    """
    return find_network(name).factory(num_classes, in_channels)
