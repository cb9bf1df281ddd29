"""Taps on a network: what goes into one layer, and comes out of it, in a forward and in its backward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Replace = Callable[[Tensor, Tensor], Tensor]  # (input, output) of the layer to what the network gets


@dataclass
class Tap:
    """What goes into one layer and comes out of it in one forward of the network.

    Attributes:
        weights: The trainable weights of the first module that has some and is called before the layer.
        behind: What each batch norm takes that is called after the layer, by its path.
    """

    images: Tensor
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))
    taken: Tensor | None = None
    weights: list[nn.Parameter] = field(default_factory=list)
    x: Tensor | None = None
    out: Tensor | None = None
    in_backward: bool = False
    num_again: int = 0
    num_other: int = 0
    behind: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def looked(
    model: nn.Module, layer: nn.Module, images: Tensor, seed: int, replace: Replace | None, with_gradient: bool = False
) -> Iterator[Tap]:
    """Do one forward, and yield what one layer took and gave in it; it is looked at until the end.

    Args:
        model: The network.
        layer: The layer in it.
        images: (N, C, H, W).
        seed: Of the random numbers.
        replace: Makes what the network gets of the layer's input and output; None: its output.
        with_gradient: Whether a gradient is to come.
    """
    tap = Tap(images.detach().clone().requires_grad_(with_gradient))
    handles = [*tap_layer(tap, layer, replace), *tap_batch_norms(tap, model), *tap_weights(tap, model, layer)]
    try:
        torch.manual_seed(seed)
        with torch.set_grad_enabled(with_gradient):
            tap.scores = model(tap.images.clone())
        yield tap
    finally:
        for handle in handles:
            handle.remove()


def tap_layer(tap: Tap, layer: nn.Module, replace: Replace | None) -> list[Any]:
    """Look at what a layer takes and gives; return the hooks' handles."""

    def take(module: nn.Module, args: Any) -> Any:
        x = args[0]
        if tap.in_backward:  # a recomputation, which may be broken off within the layer
            tap.num_again += 1
            return None
        own = x.clone()  # whose gradient is the layer's alone: what goes in may go elsewhere too, as into a shortcut
        if own.requires_grad:
            own.retain_grad()
        tap.taken = own
        return (own.clone(), *args[1:])  # the layer might write into its input

    def give(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if tap.in_backward:
            tap.num_other += tap.out is not None and not torch.equal(output.detach(), tap.out.detach())
            return None
        if output.requires_grad:
            output.retain_grad()
        x = tap.taken
        assert x is not None, "the layer has been given it"
        tap.x, tap.out = x, output
        return (output if replace is None else replace(x, output)).clone()  # the network might write into it

    return [layer.register_forward_pre_hook(take), layer.register_forward_hook(give)]


def tap_batch_norms(tap: Tap, model: nn.Module) -> list[Any]:
    """Look at what the batch norms take that are called after the layer; return the hooks' handles."""

    def taker(path: str) -> Any:
        def take(module: nn.Module, args: Any) -> None:
            if tap.out is not None and not tap.in_backward:
                tap.behind.setdefault(path, args[0].detach().clone())

        return take

    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return [module.register_forward_pre_hook(taker(path)) for path, module in norms]


def tap_weights(tap: Tap, model: nn.Module, layer: nn.Module) -> list[Any]:
    """Find the first trainable weights that are used before the layer; return the hooks' handles."""

    def taker(weights: list[nn.Parameter]) -> Any:
        def take(module: nn.Module, args: Any) -> None:
            if tap.taken is None and not tap.weights:
                tap.weights = weights

        return take

    own, handles = set(layer.modules()), []
    for module in model.modules():
        weights = [weight for weight in module.parameters(recurse=False) if weight.requires_grad]
        if weights and module not in own:
            handles.append(module.register_forward_pre_hook(taker(weights)))
    return handles
