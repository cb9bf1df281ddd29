"""The mask by which a layer multiplies its input: 0 where a unit is dropped, its scale elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor


def mask_of(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a layer once on a feature map, and return its mask and its output.

    The gradient of sum(layer(x)) with respect to x is the mask times its scale, for any method and even where x is
    zero: 0 where a unit is dropped, between 0 and 1 where it is damped, 1 or more where it is kept. It distinguishes a
    dropped unit from one that was 0 after a ReLU, and needs no support in the layer's code. The input is detached, so
    that no gradient reaches the rest of the network.

    Args:
        layer: A layer in training mode, or its forward.
        x: Feature map (N, C, H, W).

    Returns:
        The mask, shaped like `x`, all zero where no gradient passes; and the layer's output, detached.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        out = layer(leaf.clone())  # not a leaf, so that a layer may work in place
        total = out.sum()
    if not total.requires_grad:
        return torch.zeros_like(x), out
    (mask,) = torch.autograd.grad(total, leaf, materialize_grads=True)
    return mask, out.detach()
