"""Networks by name: tdbench's own, `torchvision:NAME`, `timm:NAME`, and the user's own, `file.py:make_model`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from tdbench.config.user_code import is_user_code, label
from tdbench.errors import ConfigError, unknown
from tdbench.models.densenet import densenet_bc
from tdbench.models.libraries import build_timm, build_torchvision, check_timm, check_torchvision
from tdbench.models.resnet import cifar_resnet, wide_stem_resnet
from tdbench.models.resnext import resnext
from tdbench.models.se_resnet import se_resnet18
from tdbench.models.user import build_user, find_factory
from tdbench.models.vgg import vgg_bn
from tdbench.models.wide_resnet import check_shape, wide_resnet


@dataclass(frozen=True)
class Network:
    """What is known about a network before it is built."""

    title: str
    factory: Callable[[int, int], nn.Module]  # (num_classes, in_channels) -> network


def wrn(depth: int, widening: int) -> Network:
    """Return the entry of WRN-`depth`-`widening`.

    Raises:
        ConfigError: There is no such network.
    """
    check_shape(depth, widening)
    widths = "/".join(str(width * widening) for width in (16, 32, 64))
    return Network(f"WRN-{depth}-{widening}, pre-activation, {widths} channels", partial(wide_resnet, depth, widening))


NETWORKS: dict[str, Network] = {
    **{
        f"resnet{depth}": Network(f"ResNet-{depth}, 16/32/64 channels", partial(cifar_resnet, depth))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet18": Network("ResNet-18, 3×3 stem, 64/128/256/512 channels", partial(wide_stem_resnet, (2, 2, 2, 2))),
    "resnet34": Network("ResNet-34, 3×3 stem, 64/128/256/512 channels", partial(wide_stem_resnet, (3, 4, 6, 3))),
    "se_resnet18": Network("SE-ResNet-18, 3×3 stem, 64/128/256/512 channels, reduction 16", se_resnet18),
    **{f"wrn_{depth}_{widening}": wrn(depth, widening) for depth, widening in ((16, 4), (28, 10), (40, 4))},
    **{
        f"vgg{depth}_bn": Network(f"VGG-{depth} with batch norm, 64/128/256/512/512 channels", partial(vgg_bn, depth))
        for depth in (11, 13, 16, 19)
    },
    "densenet_bc_100_12": Network("DenseNet-BC, depth 100, growth 12", partial(densenet_bc, 100, 12)),
    "resnext29_8x64d": Network("ResNeXt-29, 8×64d, 256/512/1024 channels", partial(resnext, 29, 8, 64)),
}

PATTERNS = ("wrn_D_K", "torchvision:NAME", "timm:NAME", "FILE.py:NAME")  # families of networks, besides NETWORKS


def find_network(name: str) -> Network:
    """Return a network by its name: one of NETWORKS, any `wrn_D_K`, `torchvision:NAME`, `timm:NAME`, `file.py:NAME`.

    Raises:
        ConfigError: There is no such network, and the nearest one is named; timm is not installed; or the user's file
            does not import or lacks the name.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if is_user_code(name):
        find_factory(name)
        return Network(f"the user's own {label(name)}", partial(build_user, name))
    library, colon, theirs = name.partition(":")
    if colon and library == "torchvision":
        check_torchvision(theirs)
        return Network(f"torchvision's {theirs}", partial(build_torchvision, theirs))
    if colon and library == "timm":
        check_timm(theirs)
        return Network(f"timm's {theirs}", partial(build_timm, theirs))
    if shape := re.fullmatch(r"wrn_([0-9]+)_([0-9]+)", name):
        return wrn(int(shape[1]), int(shape[2]))
    if name.endswith(".py"):
        raise ConfigError(f"model {name!r} lacks the name of what makes the network in it: {name}:NAME")
    raise ConfigError(unknown("model", name, [*NETWORKS, *PATTERNS]))


def build(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Return the network `name` with fresh weights, drawn from torch's global generator.

    Raises:
        ConfigError: There is no such network; the nearest one is named.
    """
    return find_network(name).factory(num_classes, in_channels)
