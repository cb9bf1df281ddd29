"""Image classifiers of torchvision and timm, with fresh weights; `published.py` has those that they publish.

They declare no sites; `sites.py` finds them by a trace, which also shows whether they accept the image size.
"""

from importlib import import_module
from typing import Any

from torch import nn

from tdbench.errors import ConfigError, nearest

# By default both return auxiliary logits in training, and warn where init_weights is not given.
_TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def check_torchvision(name: str) -> None:
    """Check that torchvision has an image classifier `name`.

    Raises:
        ConfigError: It has none; the nearest one is named.
    """
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if name in torchvision.models.list_models() and name not in known:
        raise ConfigError(f"torchvision:{name} must be an image classifier, and is none")
    if name not in known:
        raise ConfigError(
            f"unknown torchvision model {name!r}{nearest(name, known)} "
            f"(torchvision.models.list_models() has all {len(known)})"
        )


def build_torchvision(name: str, num_classes: int, in_channels: int, **more: Any) -> nn.Module:
    """Return torchvision's `name`, fresh; its first convolution is replaced where `in_channels` is not 3.

    Raises:
        ConfigError: There is no such classifier.
    """
    import torchvision.models

    check_torchvision(name)
    options = {**_TORCHVISION_OPTIONS.get(name, {}), **more}
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    if in_channels != 3:
        replace_first_convolution(network, in_channels)
    return network


def replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Replace the first convolution of a network, in place, by a new one that takes `in_channels`."""
    path, old = next((path, m) for path, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    network.set_submodule(path, new)


def check_timm(name: str) -> None:
    """Check that timm is installed and has a network `name`.

    Raises:
        ConfigError: timm is not installed, or has none; the nearest one is named.
    """
    timm = _timm()
    if not timm.is_model(name):
        known = timm.list_models()
        raise ConfigError(
            f"unknown timm model {name!r}{nearest(name, known)} (timm.list_models() has all {len(known)})"
        )


def build_timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Return timm's `name`, with fresh weights.

    Raises:
        ConfigError: timm is not installed, has no such network, or cannot build it for these numbers.
    """
    check_timm(name)
    try:
        return _timm().create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{num_classes} classes and {in_channels} input channels ({error})"
        raise ConfigError(f"timm:{name} cannot be built with {reason}") from error


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ConfigError('timm:NAME needs timm, which is not installed: pip install "tdbench[timm]"') from error
