"""Weights that a network begins with, from a file: all of them but the head, which may be for other classes."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.errors import ConfigError, line_of

_NESTED = ("state_dict", "model_state_dict", "model", "state")  # where checkpoints of training loops keep them first
MOST_TOLD = 3


@dataclass(frozen=True)
class Begun:
    """The weights that a network begins with.

    Attributes:
        source: Where they come from, in words.
        num_keys: The keys of the network's state.
        drawn: Those that were not loaded, and are drawn anew.
    """

    source: str
    num_keys: int
    drawn: tuple[str, ...]

    def __str__(self) -> str:
        loaded = f"{self.source}, {self.num_keys - len(self.drawn)} of {self.num_keys} keys"
        return f"{loaded}; drawn anew: {listed(self.drawn)}" if self.drawn else loaded


def load_file(network: nn.Module, file: Path, num_classes: int) -> Begun:
    """Load the weights in a file into a network, in place.

    Raises:
        ConfigError: The file cannot be read, is of no known kind, or holds the weights of another network.
    """
    return transfer(network, unwrapped(state_in(file), network), file.name, num_classes)


def state_in(file: Path) -> dict[str, Tensor]:
    """Return the state of a network in a file of safetensors or of `torch.save`, read without running what is in it.

    Raises:
        ConfigError: It cannot be read, or holds no such state.
    """
    try:
        found: Any = _safetensors(file) if file.suffix == ".safetensors" else _saved(file)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"model.weights {file} cannot be read: {line_of(error, with_type=False)}") from error
    except Exception as error:  # of pickle, zipfile, safetensors
        kind = "safetensors" if file.suffix == ".safetensors" else "torch.save, with tensors alone"
        raise ConfigError(
            f"model.weights {file} must be a file of {kind}, and is none that can be read ({type(error).__name__})"
        ) from error
    while isinstance(found, Mapping) and (inner := nested_in(found)):
        found = found[inner]
    if not is_state(found):
        got = (
            f"the keys {listed([*map(str, found)]) or 'of nothing'}"
            if isinstance(found, Mapping)
            else type(found).__name__
        )
        raise ConfigError(f"model.weights {file} must hold the state of a network, keys with a tensor each, got {got}")
    return {str(key): value for key, value in found.items()}


def is_state(found: Any) -> bool:
    """Return whether something is the state of a network: keys with a tensor each."""
    return isinstance(found, Mapping) and bool(found) and all(isinstance(value, Tensor) for value in found.values())


def nested_in(found: Mapping[Any, Any]) -> Any:
    """Return the key under which a checkpoint holds a network's state: a usual one, or that of the only state there."""
    states = [key for key, value in found.items() if is_state(value)]
    usual = next((key for key in _NESTED if isinstance(found.get(key), Mapping)), None)
    return usual or (states[0] if len(states) == 1 else None)


def unwrapped(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return a state without what all its keys begin with and those of the network do not.

    So do those of DistributedDataParallel (`module.`), of torch.compile (`_orig_mod.`), of Lightning's modules.
    """
    ours, inner = first_parts(network.state_dict()), state
    while len(first_parts(inner)) == 1 and all("." in key for key in inner):
        if first_parts(inner) & ours:
            return inner
        inner = {key.partition(".")[2]: value for key, value in inner.items()}
    return inner if first_parts(inner) & ours else state


def first_parts(keys: Iterable[str]) -> set[str]:
    """Return what keys begin with, up to their first dot."""
    return {key.partition(".")[0] for key in keys}


def _saved(file: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other pickle protocols
        return torch.load(file, map_location="cpu", weights_only=True)


def _safetensors(file: Path) -> Any:
    try:
        from safetensors.torch import load_file as load
    except ImportError as error:
        raise ConfigError(
            f"model.weights {file} needs safetensors, which is not installed: pip install safetensors"
        ) from error
    return load(file)


def transfer(network: nn.Module, state: Mapping[str, Tensor], source: str, num_classes: int) -> Begun:
    """Load a state into a network, in place; its head is left as it is where that is for other classes, or missing.

    Args:
        network: With fresh weights.
        state: Of the same network, for any number of classes; for colour images where this one may take grey ones.
        source: Where it comes from, for messages.
        num_classes: Of this network.

    Raises:
        ConfigError: Anything but the head is missing, unknown, or of another shape.
    """
    ours, theirs = network.state_dict(), grey(network, state)
    head = head_of(network, num_classes)

    def fits(key: str) -> bool:
        return key in theirs and theirs[key].shape == ours[key].shape

    def may_differ(key: str) -> bool:
        same_inputs = key not in theirs or key not in ours or theirs[key].shape[1:] == ours[key].shape[1:]
        return key.rpartition(".")[0] == head and same_inputs

    lacking = [key for key in ours if not fits(key) and not key.endswith("num_batches_tracked")]
    wrong = [key for key in [*lacking, *(key for key in theirs if key not in ours)] if not may_differ(key)]
    if wrong:
        told = [f"{key} is {shape_in(theirs, key)} there and {shape_in(ours, key)} here" for key in wrong]
        raise ConfigError(
            f"the weights ({source}) are those of another network: {len(wrong)} of {len({**ours, **theirs})} keys "
            f"differ, of which {listed(told)}"
        )
    drawn = [key for key in ours if key.rpartition(".")[0] == head] if lacking else []
    network.load_state_dict({key: theirs[key] for key in ours if fits(key) and key not in drawn}, strict=False)
    return Begun(source, len(ours), tuple(drawn))


def head_of(network: nn.Module, num_classes: int) -> str | None:
    """Return the path of the layer that puts out the scores: the last one with so many outputs; None: there is none."""
    layers = [(path, m) for path, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return next((path for path, layer in reversed(layers) if layer.weight.shape[0] == num_classes), None)


def grey(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state whose first convolution takes grey images where the network's does: its weights are added up."""
    first = next((path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)
    key = f"{first}.weight"
    weight = state.get(key)
    takes_grey = key in (ours := network.state_dict()) and ours[key].shape[1] == 1
    if not takes_grey or weight is None or weight.dim() != 4 or weight.shape[1] != 3:
        return state
    return {**state, key: weight.sum(dim=1, keepdim=True)}


def shape_in(state: Mapping[str, Tensor], key: str) -> str:
    return "×".join(map(str, state[key].shape)) or "a number" if key in state else "missing"


def listed(words: Any) -> str:
    """Return the first few of some words, and how many more there are."""
    more = len(words) - MOST_TOLD
    return ", ".join(words[:MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
