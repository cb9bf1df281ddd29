"""Weights that torchvision and timm publish: what they were made with, and a network that begins with them.

Both download a file on first use, and keep it where their own settings say: `TORCH_HOME`, `HF_HOME`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tdbench.errors import ConfigError, line_of
from tdbench.models.libraries import build_torchvision, check_timm, check_torchvision
from tdbench.models.transfer import Begun, transfer

# Their files hold auxiliary classifiers too, which are left out here. Both were trained with another normalisation, to
# which `transform_input` takes images that are normalised as torchvision's presets do.
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


class Input(NamedTuple):
    """The images that a network takes; None: as they are.

    Attributes:
        size: Their side in pixels.
        mean, std: Of each channel, in [0, 1], by which they are normalised.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def published_input(name: str) -> Input:
    """Return what the published weights of `torchvision:NAME` or `timm:NAME` were made with.

    Raises:
        ConfigError: There are no such weights, or no such network.
    """
    library, _, theirs = name.partition(":")
    if library == "torchvision":
        preset = _torchvision_weights(theirs).transforms()
        return Input(preset.crop_size[0], tuple(preset.mean), tuple(preset.std))
    made_with = _timm_weights(theirs)
    return Input(made_with.input_size[1], tuple(made_with.mean), tuple(made_with.std))


def build_published(name: str, num_classes: int, in_channels: int) -> tuple[nn.Module, Begun]:
    """Return `torchvision:NAME` or `timm:NAME` with its published weights, its head drawn anew for other classes.

    Of grey images, the first convolution adds up its weights for the colours.

    Raises:
        ConfigError: There are no such weights, they are not here and cannot be downloaded, or the network does not take
            these numbers.
    """
    library, _, theirs = name.partition(":")
    build = _build_torchvision if library == "torchvision" else _build_timm
    return build(theirs, num_classes, in_channels)


def _build_torchvision(name: str, num_classes: int, in_channels: int) -> tuple[nn.Module, Begun]:
    weights, auxiliary = _torchvision_weights(name), _AUXILIARY.get(name, ())
    network = build_torchvision(name, num_classes, in_channels, **({"transform_input": True} if auxiliary else {}))
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    missing = f"they are not at {file}, and cannot be downloaded from {weights.url}"
    with _obtaining(f"torchvision:{name}", f"{file} is damaged" if file.exists() else missing):
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    kept = {key: value for key, value in state.items() if not key.startswith(auxiliary)}
    return network, transfer(network, kept, f"published as {file.name}", num_classes)


def _build_timm(name: str, num_classes: int, in_channels: int) -> tuple[nn.Module, Begun]:
    import timm

    made_with = _timm_weights(name)
    source = made_with.hf_hub_id or made_with.url
    missing = f"they are not in Hugging Face's cache, and cannot be downloaded from {source}"
    with _obtaining(f"timm:{name}", missing), _silent("huggingface_hub"):
        network: Any = timm.create_model(name, pretrained=True, num_classes=num_classes, in_chans=in_channels)
    heads: Any = network.get_classifier()
    replaced = {id(one) for head in (heads if isinstance(heads, tuple) else (heads,)) for one in head.parameters()}
    keys = [key for key, weight in network.named_parameters() if id(weight) in replaced]
    drawn = keys if num_classes != made_with.num_classes else []
    return network, Begun(f"published as {source}", len(network.state_dict()), tuple(drawn))


def _torchvision_weights(name: str) -> Any:
    import torchvision.models

    check_torchvision(name)
    return torchvision.models.get_model_weights(name).DEFAULT


def _timm_weights(name: str) -> Any:
    check_timm(name)
    import timm

    if not timm.is_model_pretrained(name):
        others = timm.list_models(f"{name.partition('.')[0]}*", pretrained=True)[:3]
        raise ConfigError(
            f"timm publishes no weights for {name}"
            + (f"; it does for {', '.join(others)}" if others else "")
            + "; set model.pretrained to false"
        )
    return timm.get_pretrained_cfg(name)


@contextmanager
def _obtaining(name: str, problem: str) -> Iterator[None]:
    """Turn what a library raises for want of a file, a network or a good file into one message."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # of urllib, of torch.load, of huggingface_hub and what it rests on
        raise ConfigError(
            f"the published weights of {name} cannot be had: {problem} ({line_of(error)}); model.weights takes a file "
            "of your own"
        ) from error


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Keep a library from logging each of its attempts."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
