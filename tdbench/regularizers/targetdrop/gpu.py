"""TargetDrop on a GPU: three Triton kernels forward and one backward, in place of about forty small ones.

`squeeze` reads the map once and finds the mean and the peak of every channel; `choose` works out the attention from the
means, where `attends` says so, ranks the channels of a sample by it and places the windows; `drop` copies the map,
zeroes the windows and scales the rest of the target channels. So forward reads the map twice and writes it once. `drop`
is linear and its own adjoint: backward is `drop` of the gradient, one pass.

Where the layer follows a ReLU, `squeeze` and `drop` take the map before it and apply it in the same pass, so that its
output is never written; backward needs no mask but the signs of the result, as the ReLU's own does.

The kernels are launched as they are, not as operators of torch: torch.compile follows such launches, and in eager mode
an operator made by `triton_op` costs the host ten times as much.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tdbench.regularizers.masking import memory_format_of
from tdbench.regularizers.targetdrop.gpu_kernels import choose_kernel, drop_kernel, relu_backward_kernel, squeeze_kernel

NUM_WARPS = 8
BLOCK_UNITS = 4096  # units of a map in one block: 16 for each thread, two 16-byte loads in half types
Blocks = tuple[tuple[int, int], dict[str, Any]]
ROW_BYTES = 64  # of one position in a channels_last block: whole sectors, and enough blocks for a small batch
BLOCKS_OF_A_PART, MAX_PARTS = 2, 16  # that one program squeezes, and into which a map is cut at most
MAX_WEIGHTS = 2**16  # of each of W1 and W2, which every sample reads; larger ones are cuBLAS's


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


class Squeezed(NamedTuple):
    """What is known of each channel of each sample of a feature map, from each of the `parts` that it was read in.

    Attributes:
        means: fp32 (N, parts, C), which add up to the mean.
        peaks: int32 (N, parts, C), the flat position of the first maximum of the part; NaN counts as -inf.
        largest: fp32 (N, parts, C), that maximum; of a single part anything.
    """

    means: Tensor
    peaks: Tensor
    largest: Tensor


def squeeze_in_parts(x: Tensor, relu: bool, blocks: Blocks, num_parts: int) -> Squeezed:
    """Return what is known of each channel of `x` (N, C, H, W), or with `relu` of relu(x); nothing has a gradient.

    Where a block spans few positions, one program for a whole map would leave a GPU waiting for it, and others idle.
    """
    grid, block = blocks
    means = torch.empty((x.shape[0], num_parts, x.shape[1]), device=x.device, dtype=torch.float32)
    peaks = torch.empty_like(means, dtype=torch.int32)
    largest = means if num_parts == 1 else torch.empty_like(means)
    sizes = x.shape[1], x.shape[2] * x.shape[3]
    squeeze_kernel[grid[0], num_parts](x, means, peaks, largest, *sizes, RELU=relu, NUM_PARTS=num_parts, **block)
    return Squeezed(means, peaks, largest)


def parts_of(blocks: Blocks) -> int:
    """Return in how many parts a map of these blocks is squeezed."""
    return min(MAX_PARTS, -(-blocks[0][1] // BLOCKS_OF_A_PART))


def squeeze(x: Tensor, relu: bool, blocks: Blocks | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean of each channel of `x` (N, C, H, W), fp32 (N, C), and its first maximum, int32 (N, C).

    The maximum is a flat position; NaN counts as -inf. With `relu`, both are of relu(x). Neither has a gradient.
    `blocks` are those of `x`, where they are known.
    """
    squeezed = squeeze_in_parts(x, relu, blocks or blocks_of(x), 1)
    return squeezed.means[:, 0], squeezed.peaks[:, 0]


class Windows(NamedTuple):
    """Where `drop` drops: `centres`, int32 (N, C), -1 without a window; `scale`, λ, fp32 (N, C); `area`, in units.

    The area is that of each sample, int64 (N,), or where units are counted the counts.
    """

    centres: Tensor
    scale: Tensor
    area: Tensor


def choose(
    scores: Tensor,
    peaks: Tensor,
    num_targets: int | Tensor,
    height: int,
    width: int,
    radius: int,
    rescale: str,
    counts: Tensor | None = None,
) -> Windows:
    """Place a window around the peak of each of the `num_targets` channels of a sample that have the largest scores.

    Args:
        scores: (N, C), fp32 or fp64; of equal ones the lowest channel wins, and NaN is +inf.
        peaks: As `squeeze` finds them.
        num_targets: K, or an int32 tensor of it (0-dim), of which a recorded step reads what is in it at the time.
        height, width, radius, rescale: H; W; (k - 1) / 2; a `Rescale`.
        counts: Of a meter, int64 (2,): the units in the windows and all units are added to them. None: they are not.
    """
    num_samples, num_channels = scores.shape
    squeezed = Squeezed(scores, peaks, scores)
    sizes = num_samples, num_channels, height, width
    return _launch_choose(squeezed, 1, None, scores, sizes, num_targets, radius, rescale, counts)


def attends(weights: tuple[Tensor, Tensor] | None) -> bool:
    """Return whether `squeeze_and_choose` can do with the weights of an attention; None: it has none."""
    return weights is None or (
        weights[0].numel() <= MAX_WEIGHTS and not any(one.requires_grad or not one.is_contiguous() for one in weights)
    )


def squeeze_and_choose(
    x: Tensor,
    weights: tuple[Tensor, Tensor] | None,
    num_targets: int | Tensor,
    radius: int,
    rescale: str,
    relu: bool,
    blocks: Blocks,
    counts: Tensor | None = None,
) -> Windows:
    """Place windows in `x` (N, C, H, W) as `squeeze`, the attention, and `choose` do one after another.

    `weights` are W1 (hidden, C) and W2 (C, hidden), as `attends` allows them; None: the scores are the channel means.
    """
    num_parts = parts_of(blocks)
    squeezed = squeeze_in_parts(x, relu, blocks, num_parts)
    is_scored = weights is None and num_parts == 1
    scores = squeezed.means if is_scored else torch.empty(x.shape[:2], device=x.device, dtype=torch.float32)
    return _launch_choose(squeezed, num_parts, weights, scores, x.shape, num_targets, radius, rescale, counts)


def _launch_choose(squeezed, num_parts, weights, scores, shape, num_targets, radius, rescale, counts):
    num_samples, num_channels, height, width = shape
    centres = torch.empty((num_samples, num_channels), device=scores.device, dtype=torch.int32)
    scale = torch.empty_like(centres, dtype=torch.float32)
    area = torch.empty(num_samples, device=scores.device, dtype=torch.int64) if counts is None else counts
    fc1, fc2 = (scores, scores) if weights is None else weights
    num_hidden = 1 if weights is None else int(fc1.shape[0])
    is_live = isinstance(num_targets, Tensor)
    live, num_targets = (num_targets, 0) if is_live else (centres, num_targets)
    block_c, block_hidden = power_of_2(int(num_channels)), power_of_2(num_hidden)
    choose_kernel[(num_samples,)](
        *(*squeezed, fc1, fc2, scores, centres, scale, area, live),
        *(num_channels, num_hidden, num_targets, height, width, radius),
        NUM_PARTS=num_parts,
        EXCITES=weights is not None,
        RESCALE=rescale,
        COUNTS=counts is not None,
        LIVE=is_live,
        BLOCK_C=block_c,
        BLOCK_RIVALS=min(block_c, max(1, BLOCK_UNITS // block_c)),
        BLOCK_HIDDEN=block_hidden,
        BLOCK_INPUTS=min(block_c, max(1, BLOCK_UNITS // block_hidden)),
    )
    return Windows(centres, scale, area)


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
