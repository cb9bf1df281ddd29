"""Networks by name: tdbench's own, `torchvision:NAME`, `timm:NAME`, and the user's own, `file.py:make_model`."""

from importlib import import_module

from torch import nn

from tdbench.config.networks import find_network
from tdbench.models.libraries import check_timm, check_torchvision
from tdbench.models.user import find_factory
from tdbench.user_code import is_user_code


def check_network(name: str) -> None:
    """Check that the network `name` can be built, before anything else is loaded.

    Raises:
        ConfigError: There is no such network (the nearest name is given); timm is not installed; or the user's file
            does not import or lacks the name.
    """
    find_network(name)
    library, _, theirs = name.partition(":")
    if is_user_code(name):
        find_factory(name)
    elif library == "torchvision":
        check_torchvision(theirs)
    elif library == "timm":
        check_timm(theirs)


def build(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Return the network `name` with fresh weights, drawn from torch's global generator.

    What begins with other weights, is built by `weights.build_begun`.

    Raises:
        ConfigError: There is no such network; the nearest name is given.
    """
    network = find_network(name)
    module, _, function = network.factory.partition(":")
    factory = getattr(import_module(f"{__package__}.{module}"), function)
    return factory(*network.arguments, num_classes, in_channels)
