"""TargetDrop on a GPU: three Triton kernels forward and one backward, in place of about forty small ones.

`squeeze` reads the map once and finds the mean and the peak of every channel; `choose` ranks the channels of a sample
and places the windows; `drop` copies the map, zeroes the windows and scales the rest of the target channels. So
forward reads the map twice and writes it once. `drop` is linear and its own adjoint: backward is `drop` of the
gradient, one pass.

Where the layer follows a ReLU, `squeeze` and `drop` take the map before it and apply it in the same pass, so that its
output is never written; backward needs no mask but the signs of the result, as the ReLU's own does.

The kernels are launched as they are, not as operators of torch: torch.compile follows such launches, and in eager mode
an operator made by `triton_op` costs the host ten times as much.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
from torch import Tensor

from tdbench.regularizers.masking import memory_format_of
from tdbench.regularizers.targetdrop.gpu_kernels import choose_kernel, drop_kernel, relu_backward_kernel, squeeze_kernel

NUM_WARPS = 8
BLOCK_UNITS = 4096  # units of a map in one block: 16 for each thread, two 16-byte loads in half types
Blocks = tuple[tuple[int, int], dict[str, Any]]
ROW_BYTES = 64  # of one position in a channels_last block: whole sectors, and enough blocks for a small batch


def blocks_of(x: Tensor) -> Blocks:
    """Return the grid, (samples × blocks of channels, blocks of positions), and the shape of a block of `x`.

    Raises:
        ValueError: `x` is neither contiguous nor channels_last.
    """
    is_contiguous = x.is_contiguous()
    if not (is_contiguous or x.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"x must be contiguous or channels_last, got strides {tuple(x.stride())}")
    num_channels, num_positions = int(x.shape[1]), int(x.shape[2] * x.shape[3])
    (block_c, block_p), (num_c, num_p) = _tiling(num_channels, num_positions, x.element_size(), is_contiguous)
    block = {"CHANNELS_LAST": not is_contiguous, "BLOCK_C": block_c, "BLOCK_P": block_p, "num_warps": NUM_WARPS}
    return (x.shape[0] * num_c, num_p), block


def _tiling(
    num_channels: int, num_positions: int, num_bytes: int, is_contiguous: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (channels, positions) of a block, and how many blocks of a sample lie along each."""
    if is_contiguous:
        block_p = min(power_of_2(num_positions), BLOCK_UNITS)
        block_c = min(power_of_2(num_channels), BLOCK_UNITS // block_p)
    else:
        block_c = min(power_of_2(num_channels), ROW_BYTES // num_bytes)
        block_p = min(power_of_2(num_positions), BLOCK_UNITS // block_c)
    return (block_c, block_p), (-(-num_channels // block_c), -(-num_positions // block_p))


def power_of_2(number: int) -> int:
    """Return the lowest power of two that is at least `number`; Triton's own takes the host as long as a launch."""
    return 1 << max(0, number - 1).bit_length()


def squeeze(x: Tensor, relu: bool, blocks: Blocks | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean of each channel of `x` (N, C, H, W), fp32 (N, C), and its first maximum, int32 (N, C).

    The maximum is a flat position; NaN counts as -inf. With `relu`, both are of relu(x). Neither has a gradient.
    `blocks` are those of `x`, where they are known.
    """
    grid, block = blocks or blocks_of(x)
    means = torch.empty(x.shape[:2], device=x.device, dtype=torch.float32)
    peaks = torch.empty(x.shape[:2], device=x.device, dtype=torch.int32)
    squeeze_kernel[grid[:1]](x, means, peaks, x.shape[1], x.shape[2] * x.shape[3], RELU=relu, **block)
    return means, peaks


def choose(
    scores: Tensor,
    peaks: Tensor,
    num_targets: int,
    height: int,
    width: int,
    radius: int,
    rescale: str,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Place a window around the peak of each of the `num_targets` channels of a sample that have the largest scores.

    Args:
        scores: (N, C), fp32 or fp64; of equal ones the lowest channel wins, and NaN is +inf.
        peaks, num_targets, height, width, radius, rescale: As `squeeze` finds them; K; H; W; (k - 1) / 2; a `Rescale`.
        counts: Of a meter, int64 (2,): the units in the windows and all units are added to them. None: they are not.

    Returns:
        The centres, int32 (N, C), -1 where there is no window; λ, fp32 (N, C); the units in the windows, int64 (N,), or
        where they are counted the counts.
    """
    num_samples, num_channels = scores.shape
    centres = torch.empty_like(peaks)
    scale = torch.empty(scores.shape, device=scores.device, dtype=torch.float32)
    area = torch.empty(num_samples, device=scores.device, dtype=torch.int64) if counts is None else counts
    block_c = power_of_2(int(num_channels))
    choose_kernel[(num_samples,)](
        *(scores, peaks, centres, scale, area),
        *(num_channels, num_targets, height, width, radius),
        RESCALE=rescale,
        COUNTS=counts is not None,
        BLOCK_C=block_c,
        BLOCK_RIVALS=min(block_c, max(1, 4096 // block_c)),
    )
    return centres, scale, area


def drop(x: Tensor, centres: Tensor, scale: Tensor, radius: int, relu: bool, blocks: Blocks | None = None) -> Tensor:
    """Return `x` (N, C, H, W), or relu(x), times λ, `scale` (N, C), and with its windows zeroed, in its memory format.

    `centres` (N, C) are flat positions, -1 where a channel has no window; `radius` is (k - 1) / 2; `blocks` are those
    of `x`, where they are known.
    """
    return _Drop.apply(x, centres, scale, radius, relu, blocks or blocks_of(x))


def _launch_drop(x, centres, scale, radius, relu, blocks):
    grid, block = blocks
    out = torch.empty_like(x)
    sizes = x.shape[1], x.shape[2] * x.shape[3], radius
    drop_kernel[grid](x, centres, scale, out, *sizes, WIDTH=int(x.shape[3]), RELU=relu, **block)
    return out


def _launch_relu_backward(grad, out, scale, blocks):
    grad = grad.contiguous(memory_format=memory_format_of(out))
    grid, block = blocks
    result = torch.empty_like(out)
    relu_backward_kernel[grid](grad, out, scale, result, out.shape[1], out.shape[2:].numel(), **block)
    return result


class _Drop(torch.autograd.Function):
    """Launches the kernel; linear in `x` (or relu(x)) and its own adjoint, so that backward is forward again.

    Written in torch's older style, which takes the host half the time of the one with a `setup_context`.
    """

    @staticmethod
    def forward(ctx, x, centres, scale, radius, relu, blocks):
        out = _launch_drop(x, centres, scale, radius, relu, blocks)
        ctx.radius, ctx.relu, ctx.memory_format, ctx.blocks = radius, relu, memory_format_of(x), blocks
        ctx.save_for_backward(out if relu else centres, scale)
        return out

    @staticmethod
    def backward(ctx, grad):
        mask, scale = ctx.saved_tensors
        is_followed = torch.is_grad_enabled()  # a backward of the backward will be asked for
        if ctx.relu:
            back = _ReluBackward.apply if is_followed else _launch_relu_backward
            return back(grad, mask, scale, ctx.blocks), None, None, None, None, None
        grad = grad.contiguous(memory_format=ctx.memory_format)
        back = _Drop.apply if is_followed else _launch_drop
        return back(grad, mask, scale, ctx.radius, False, ctx.blocks), None, None, None, None, None


class _ReluBackward(torch.autograd.Function):
    """The gradient of `drop` with `relu`, from its result `out`: linear in `grad` and its own adjoint."""

    @staticmethod
    def forward(ctx, grad, out, scale, blocks):
        ctx.save_for_backward(out, scale)
        ctx.blocks = blocks
        return _launch_relu_backward(grad, out, scale, blocks)

    @staticmethod
    def backward(ctx, grad):
        return _ReluBackward.apply(grad, *ctx.saved_tensors, ctx.blocks), None, None, None
