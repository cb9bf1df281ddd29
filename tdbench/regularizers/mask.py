"""What a layer multiplies its input by: 0 where a unit is dropped, its scale elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor


def mask_of(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Let a layer act on a feature map once, and return its mask and what it returned.

    The gradient of sum(layer(x)) with respect to x is the mask times its scale, whatever the method and wherever x
    itself is zero: 0 where a unit is dropped, between 0 and 1 where it is damped, 1 or more where it is kept. It tells
    a unit that was dropped from one that was 0 after a ReLU, and asks nothing of the layer's code. The input is
    detached, so that the rest of the network has no part in it.

    Args:
        layer: A layer in training mode, or its forward.
        x: Feature map (N, C, H, W).

    Returns:
        The mask, like `x`; zero everywhere where no gradient passes. And the layer's output, detached.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = layer(leaf.clone())  # no leaf, so that a layer may work in place
        total = out.sum()
    if not total.requires_grad:
        return torch.zeros_like(x), out
    (mask,) = torch.autograd.grad(total, leaf, materialize_grads=True)
    return mask, out.detach()
