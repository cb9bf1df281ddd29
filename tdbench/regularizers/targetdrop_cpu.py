"""TargetDrop on a CPU as one pass forward and one backward, in C++: `targetdrop_cpu.cpp`.

The plain form reads the map three times before it has written it once, and on a CPU its dozens of small tensors cost as
much again; this one works on a sample while it is in the cache, in both memory orders. Next to that, a registered
operator of torch, or an autograd function in torch's newer style, would cost more than the rest of the layer's Python.

Where the layer follows a ReLU, forward applies it on the way, so that its output is never written; backward needs no
mask but the signs of the result, as the ReLU's own does.
"""

# mypy: disable-error-code="no-untyped-def"

import torch
from torch import Tensor

from tdbench.regularizers import _targetdrop_cpu as cpp
from tdbench.regularizers._windows import memory_format_of

RESCALES = ("channel", "layer", "none")


def target_drop(
    x: Tensor,
    scores: Tensor | None,
    weights: tuple[Tensor, Tensor] | None,
    num_targets: int,
    radius: int,
    rescale: str,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return `x` (N, C, H, W), or relu(x), with its target regions dropped, and the number of units dropped.

    Args:
        x: fp32 or bf16, contiguous or channels_last; the result is likewise.
        scores: Attention (N, C); of equal ones the lowest channel wins, and NaN is +inf. None: it is computed.
        weights: W1 (hidden, C) and W2 (C, hidden) of the attention; None: it is the channel means.
        num_targets, radius, rescale: K; (k - 1) / 2; a `Rescale`.
        relu: `x` is the map before its ReLU.
    """
    return _Forward.apply(x, scores, weights, num_targets, radius, rescale, relu)


class _Forward(torch.autograd.Function):
    """The dropped map, and the number of units dropped."""

    @staticmethod
    def forward(ctx, x, scores, weights, num_targets, radius, rescale, relu):
        attention = [None if tensor is None else in_fp32(tensor) for tensor in (scores, *(weights or (None, None)))]
        hidden = 0 if weights is None else len(weights[0])
        out, num_dropped = torch.empty_like(x), x.new_empty((), dtype=torch.int64)
        centres = x.new_empty(x.shape[:2], dtype=torch.int32)  # -1: no window
        scale = x.new_empty(x.shape[:2], dtype=torch.float32)  # λ
        knobs = num_targets, radius, hidden, RESCALES.index(rescale), torch.get_num_threads()
        addresses = map(address_of, (x, *attention, out, centres, scale, num_dropped))
        cpp.forward(*form_of(x), relu, *knobs, *addresses)
        ctx.memory_format, ctx.radius, ctx.relu = memory_format_of(x), radius, relu
        ctx.mark_non_differentiable(num_dropped)
        ctx.save_for_backward(out if relu else centres, scale)
        return out, num_dropped

    @staticmethod
    def backward(ctx, grad, _):
        grad = grad.contiguous(memory_format=ctx.memory_format)
        return _Backward.apply(grad, *ctx.saved_tensors, ctx.radius, ctx.relu), *(None,) * 6


class _Backward(torch.autograd.Function):
    """The gradient, dropped likewise; linear in it and its own adjoint. With `relu`, `mask` is the dropped relu(x)."""

    @staticmethod
    def forward(ctx, grad, mask, scale, radius, relu):
        result = torch.empty_like(grad)
        addresses = map(address_of, (grad, None if relu else mask, mask if relu else None, scale, result))
        cpp.backward(*form_of(grad), radius, torch.get_num_threads(), *addresses)
        ctx.memory_format, ctx.radius, ctx.relu = memory_format_of(grad), radius, relu
        ctx.save_for_backward(mask, scale)
        return result

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous(memory_format=ctx.memory_format)
        return _Backward.apply(grad, *ctx.saved_tensors, ctx.radius, ctx.relu), *(None,) * 4


def in_fp32(tensor: Tensor) -> Tensor:
    """Return a tensor as contiguous fp32; itself where it is, since even to ask torch for it takes its time."""
    return tensor if tensor.dtype == torch.float32 and tensor.is_contiguous() else tensor.float().contiguous()


def form_of(x: Tensor) -> tuple[torch.Size, bool, bool]:
    """Return the sizes of a feature map, whether it is bf16, and whether it is channels_last."""
    return x.shape, x.dtype == torch.bfloat16, not x.is_contiguous()


def address_of(tensor: Tensor | None) -> int:
    """Return where the first unit of a tensor lies; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
