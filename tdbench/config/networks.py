"""The networks that are known by name, each declared once, with the function under `models/` that builds it."""

import re
from dataclasses import dataclass
from typing import Any

from tdbench.errors import ConfigError, unknown
from tdbench.user_code import is_user_code, unnamed_code


@dataclass(frozen=True)
class Network:
    """A network before it is built.

    Attributes:
        title: What it is, in a line.
        factory: `module:function` under `tdbench.models`.
        arguments: What the function takes before (num_classes, in_channels).
    """

    title: str
    factory: str
    arguments: tuple[Any, ...] = ()


def wide_resnet_declared(depth: int, widening: int) -> Network:
    """Return the declaration of WRN-`depth`-`widening`.

    Raises:
        ConfigError: The depth is not 6n + 4, or the widening factor is zero.
    """
    if depth < 10 or depth % 6 != 4:
        below = max(10, depth - (depth - 4) % 6)
        raise ConfigError(
            f"depth of wrn_{depth}_{widening} must be 6n + 4 (three groups of n blocks with two convolutions each, "
            f"and four layers more), got {depth}; did you mean wrn_{below}_{widening}"
            + (f" or wrn_{below + 6}_{widening}?" if depth > 10 else "?")
        )
    if widening < 1:
        raise ConfigError(f"widening factor of wrn_{depth}_{widening} must be at least 1, got {widening}")
    widths = "/".join(str(width * widening) for width in (16, 32, 64))
    title = f"WRN-{depth}-{widening}, pre-activation, {widths} channels"
    return Network(title, "wide_resnet:wide_resnet", (depth, widening))


NETWORKS: dict[str, Network] = {
    **{
        f"resnet{depth}": Network(f"ResNet-{depth}, 16/32/64 channels", "resnet:cifar_resnet", (depth,))
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    "resnet18": Network("ResNet-18, 3×3 stem, 64/128/256/512 channels", "resnet:wide_stem_resnet", ((2, 2, 2, 2),)),
    "resnet34": Network("ResNet-34, 3×3 stem, 64/128/256/512 channels", "resnet:wide_stem_resnet", ((3, 4, 6, 3),)),
    "se_resnet18": Network("SE-ResNet-18, 3×3 stem, 64/128/256/512 channels, reduction 16", "se_resnet:se_resnet18"),
    **{
        f"wrn_{depth}_{widening}": wide_resnet_declared(depth, widening)
        for depth, widening in ((16, 4), (28, 10), (40, 4))
    },
    **{
        f"vgg{depth}_bn": Network(f"VGG-{depth} with batch norm, 64/128/256/512/512 channels", "vgg:vgg_bn", (depth,))
        for depth in (11, 13, 16, 19)
    },
    "densenet_bc_100_12": Network("DenseNet-BC, depth 100, growth 12", "densenet:densenet_bc", (100, 12)),
    "resnext29_8x64d": Network("ResNeXt-29, 8×64d, 256/512/1024 channels", "resnext:resnext", (29, 8, 64)),
}

PATTERNS = ("wrn_D_K", "torchvision:NAME", "timm:NAME", "FILE.py:NAME")  # families of networks, besides NETWORKS
PUBLISHED = ("torchvision:", "timm:")  # libraries that publish weights


def find_network(name: str) -> Network:
    """Return a network by its name: one of NETWORKS, any `wrn_D_K`, `torchvision:NAME`, `timm:NAME`, `file.py:NAME`.

    Whether a library or a file has what the name says, is seen where it is built.

    Raises:
        ConfigError: There is no such network; the nearest one is named.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if is_user_code(name):
        return Network("the user's own", "user:build_user", (name,))
    library, colon, theirs = name.partition(":")
    if colon and library in ("torchvision", "timm"):
        return Network(f"{library}'s {theirs}", f"libraries:build_{library}", (theirs,))
    if shape := re.fullmatch(r"wrn_([0-9]+)_([0-9]+)", name):
        return wide_resnet_declared(int(shape[1]), int(shape[2]))
    if name.endswith(".py"):
        raise ConfigError(f"model {name!r} lacks the name of what makes the network in it: {name}:NAME")
    raise ConfigError(unnamed_code(name) or unknown("model", name, [*NETWORKS, *PATTERNS]))
