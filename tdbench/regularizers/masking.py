"""Applies a sparse mask to a feature map: all units are scaled, and the few dropped ones set to zero one by one."""

import torch
from torch import Tensor


def zero_and_scale(x: Tensor, scale: Tensor, positions: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return `x * scale` with these strides, zero at flat `positions` in memory; the gradient likewise."""
    if x.dtype != scale.dtype:
        # λ is near 1, where half types are coarse: 1.001 is 1 in bf16. In x + x·(λ - 1), which addcmul computes in
        # fp32 and rounds once, λ keeps its digits. Not 0 for λ = 1, since inf·0 is NaN: 2^-20 vanishes in rounding, and
        # is large enough for the product not to be a subnormal number, which is slow on a CPU.
        scale = (scale - 1).clamp_(min=2**-20).to(x.dtype)
    return _ZeroAndScale.apply(x, scale, positions, strides)


def is_followed() -> bool:
    """Return whether torch follows every operator, as torch.compile and the transforms of torch.func do.

    Neither takes a kernel of one's own, and a vmap takes no decision that depends on a value.
    """
    # torch has no public way to ask for a transform; the tests of torch.func watch it.
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the type of statistics, ranking and λ: that of `x`, but at least fp32."""
    return torch.promote_types(x.dtype, torch.float32)


def zero_where(mask: Tensor, x: Tensor) -> Tensor:
    """Return `x` with zeros where the mask is true, in its memory format, and so its gradient.

    `torch.where` takes the format of the mask, which is therefore brought to that of `x`; `masked_fill` gives NCHW.
    """
    tells_format = torch.compiler.is_compiling() or not is_followed()  # under a vmap nothing does
    if tells_format and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        mask = mask.expand(x.shape).contiguous(memory_format=torch.channels_last)
    return torch.where(mask, 0.0, x)


def scaled(x: Tensor, scale: float | Tensor) -> Tensor:
    """Return `x` times a number, also one on the device (0-dim), which a product would round to a half type before."""
    if not isinstance(scale, Tensor) or x.dtype == wide_dtype(x):
        return x * scale
    return torch.addcmul(x, x, (scale - 1).to(x.dtype))


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of a tensor that is contiguous or channels_last."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


class _ZeroAndScale(torch.autograd.Function):
    """Multiply by λ, zero the windows: one pass over memory and a few per cent of another, forward and backward.

    A dense mask would cost three to ten times as much; the windows are a few per cent of the units, so they are
    written one by one, at their positions in memory. The operation is linear in `x` and its own adjoint, so backward
    is forward again.
    """

    @staticmethod
    def forward(ctx, x, scale, positions, strides):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(scale, positions)
        ctx.strides = strides
        out = torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device)
        if x.dtype == wide_dtype(x):
            torch.mul(x, scale, out=out)
        else:
            torch.addcmul(x, x, scale, out=out)
        out.as_strided((out.numel(),), (1,)).index_fill_(0, positions, 0)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return _ZeroAndScale.apply(grad, *ctx.saved_tensors, ctx.strides), None, None, None
