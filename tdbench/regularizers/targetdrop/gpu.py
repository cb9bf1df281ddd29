"""TargetDrop on a GPU: three Triton kernels forward and one backward, in place of about forty small ones.

`squeeze` reads the map once and finds the mean and the peak of every channel; `choose` ranks the channels of a sample
and places the windows; `drop` copies the map, zeroes the windows and scales the rest of the target channels. So
forward reads the map twice and writes it once. `drop` is linear and its own adjoint: backward is `drop` of the
gradient, one pass. All arithmetic is fp32, and a result is rounded once.

Where the layer follows a ReLU, `squeeze` and `drop` take the map before it and apply it in the same pass, so that its
output is never written; backward needs no mask but the signs of the result, as the ReLU's own does.

One kernel serves both memory formats: a block spans channels × positions, and only its shape differs.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton
from triton.language import constexpr

from tdbench.regularizers.masking import memory_format_of

NUM_WARPS = 8
BLOCK_UNITS = 4096  # units of a map in one block: 16 for each thread, two 16-byte loads in half types
ROW_BYTES = 64  # of one position in a channels_last block: whole sectors, and enough blocks for a small batch


@triton.jit
def _sample_and_channel(num_channels, BLOCK_C: constexpr):
    # Neighbours in memory run at the same time.
    num_blocks = tl.cdiv(num_channels, BLOCK_C)
    channel = tl.program_id(0) % num_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    return (tl.program_id(0) // num_blocks).to(tl.int64), channel


@triton.jit
def _units(channel, position, num_channels, num_positions, CHANNELS_LAST: constexpr):
    exists = (channel < num_channels)[:, None] & (position < num_positions)[None, :]
    if CHANNELS_LAST:
        at = channel[:, None] + position[None, :] * num_channels
    else:
        at = channel[:, None] * num_positions + position[None, :]
    return at, exists


@triton.jit
def _extent(centre, radius, length):
    # At the border the window is clipped, not shifted.
    return tl.minimum(centre + radius, length - 1) - tl.maximum(centre - radius, 0) + 1


@triton.jit
def _squeeze_kernel(
    x_ptr,
    means_ptr,
    peaks_ptr,
    num_channels,
    num_positions,
    RELU: constexpr,
    CHANNELS_LAST: constexpr,
    BLOCK_C: constexpr,
    BLOCK_P: constexpr,
):
    sample, channel = _sample_and_channel(num_channels, BLOCK_C)
    x_ptr += sample * num_channels * num_positions
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    largest = tl.full((BLOCK_C, BLOCK_P), float("-inf"), tl.float32)
    first = tl.zeros((BLOCK_C, BLOCK_P), tl.int32) + tl.arange(0, BLOCK_P)[None, :]
    for start in range(0, num_positions, BLOCK_P):
        position = start + tl.arange(0, BLOCK_P)
        at, exists = _units(channel, position, num_channels, num_positions, CHANNELS_LAST)
        x = tl.load(x_ptr + at, mask=exists, other=0.0).to(tl.float32)
        if RELU:
            x = tl.where(x <= 0, 0.0, x)  # NaN stays NaN
        total += x
        higher = exists & (x > largest)  # NaN never is, so that it counts as -inf
        largest = tl.where(higher, x, largest)
        first = tl.where(higher, position[None, :], first)
    # Each lane holds the first of its own maxima; the first of all is the lowest position among the lanes that tie.
    peak = tl.max(largest, axis=1)
    first = tl.min(tl.where(largest == peak[:, None], first, num_positions), axis=1)
    mean = tl.div_rn(tl.sum(total, axis=1), tl.zeros((BLOCK_C,), tl.float32) + num_positions)
    at = sample * num_channels + channel
    tl.store(means_ptr + at, mean, mask=channel < num_channels)
    tl.store(peaks_ptr + at, first, mask=channel < num_channels)


@triton.jit
def _choose_kernel(
    scores_ptr,
    peaks_ptr,
    centres_ptr,
    scale_ptr,
    area_ptr,
    num_channels,
    num_targets,
    height,
    width,
    radius,
    RESCALE: constexpr,
    BLOCK_C: constexpr,
    BLOCK_RIVALS: constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_C)
    exists = channel < num_channels
    at = sample * num_channels + channel
    score = tl.load(scores_ptr + at, mask=exists, other=0.0)
    score = tl.where(score == score, score, float("inf"))  # NaN is +inf
    rank = tl.zeros((BLOCK_C,), tl.int32)
    for start in range(0, num_channels, BLOCK_RIVALS):
        rival = start + tl.arange(0, BLOCK_RIVALS)
        theirs = tl.load(scores_ptr + sample * num_channels + rival, mask=rival < num_channels, other=0.0)
        theirs = tl.where(theirs == theirs, theirs, float("inf"))[None, :]
        lower = (theirs == score[:, None]) & (rival[None, :] < channel[:, None])  # of equal scores, the lowest channel
        ahead = ((theirs > score[:, None]) | lower) & (rival < num_channels)[None, :]
        rank += tl.sum(ahead.to(tl.int32), axis=1)
    target = exists & (rank < num_targets)
    peak = tl.load(peaks_ptr + at, mask=exists, other=0)
    area = _extent(peak // width, radius, height) * _extent(peak % width, radius, width)
    area = tl.where(target, area, 0)
    dropped = tl.sum(area, axis=0)
    scale = tl.full((BLOCK_C,), 1.0, tl.float32)
    if RESCALE != "none":
        num_units = height * width
        kept = num_units - area
        if RESCALE == "layer":
            num_units *= num_channels
            kept = num_units - dropped + tl.zeros((BLOCK_C,), tl.int32)
        ratio = tl.div_rn(tl.zeros((BLOCK_C,), tl.float32) + num_units, kept.to(tl.float32))
        scale = tl.where(kept > 0, ratio, 1.0)  # nothing is kept: nothing is left to scale
    tl.store(centres_ptr + at, tl.where(target, peak, -1), mask=exists)
    tl.store(scale_ptr + at, scale, mask=exists)
    tl.store(area_ptr + sample, dropped.to(tl.int64))


@triton.jit
def _drop_kernel(
    x_ptr,
    centres_ptr,
    scale_ptr,
    out_ptr,
    num_channels,
    num_positions,
    radius,
    WIDTH: constexpr,
    RELU: constexpr,
    CHANNELS_LAST: constexpr,
    BLOCK_C: constexpr,
    BLOCK_P: constexpr,
):
    sample, channel = _sample_and_channel(num_channels, BLOCK_C)
    position = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    centre = tl.load(centres_ptr + sample * num_channels + channel, mask=channel < num_channels, other=-1)[:, None]
    scale = tl.load(scale_ptr + sample * num_channels + channel, mask=channel < num_channels, other=1.0)[:, None]
    at, exists = _units(channel, position, num_channels, num_positions, CHANNELS_LAST)
    at += sample * num_channels * num_positions
    x = tl.load(x_ptr + at, mask=exists, other=0.0).to(tl.float32)
    if RELU:
        x = tl.where(x <= 0, 0.0, x)
    near_row = tl.abs((position // WIDTH)[None, :] - centre // WIDTH) <= radius
    near_col = tl.abs((position % WIDTH)[None, :] - centre % WIDTH) <= radius
    out = tl.where((centre >= 0) & near_row & near_col, 0.0, x * scale)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=exists)


@triton.jit
def _relu_backward_kernel(
    grad_ptr,
    out_ptr,
    scale_ptr,
    result_ptr,
    num_channels,
    num_positions,
    CHANNELS_LAST: constexpr,
    BLOCK_C: constexpr,
    BLOCK_P: constexpr,
):
    sample, channel = _sample_and_channel(num_channels, BLOCK_C)
    position = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    scale = tl.load(scale_ptr + sample * num_channels + channel, mask=channel < num_channels, other=1.0)[:, None]
    at, exists = _units(channel, position, num_channels, num_positions, CHANNELS_LAST)
    at += sample * num_channels * num_positions
    grad = tl.load(grad_ptr + at, mask=exists, other=0.0).to(tl.float32)
    out = tl.load(out_ptr + at, mask=exists, other=0.0).to(tl.float32)
    # Zero where the ReLU or a window is: λ ≥ 1 keeps every other unit above zero, and NaN is not at most zero.
    result = tl.where(out <= 0, 0.0, grad * scale)
    tl.store(result_ptr + at, result.to(result_ptr.dtype.element_ty), mask=exists)


def blocks_of(x: Tensor) -> tuple[tuple[int, int], dict[str, Any]]:
    """Return the grid, (samples × blocks of channels, blocks of positions), and the shape of a block of `x`.

    Raises:
        ValueError: `x` is neither contiguous nor channels_last.
    """
    num_channels, num_positions = int(x.shape[1]), int(x.shape[2] * x.shape[3])
    if x.is_contiguous():
        block_p = min(triton.next_power_of_2(num_positions), BLOCK_UNITS)
        block_c = min(triton.next_power_of_2(num_channels), BLOCK_UNITS // block_p)
    elif not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"x must be contiguous or channels_last, got strides {tuple(x.stride())}")
    else:
        block_c = min(triton.next_power_of_2(num_channels), ROW_BYTES // x.element_size())
        block_p = min(triton.next_power_of_2(num_positions), BLOCK_UNITS // block_c)
    grid = x.shape[0] * triton.cdiv(num_channels, block_c), triton.cdiv(num_positions, block_p)
    block = {"CHANNELS_LAST": not x.is_contiguous(), "BLOCK_C": block_c, "BLOCK_P": block_p, "num_warps": NUM_WARPS}
    return grid, block


def traceable(kernel: Any) -> Any:
    """Return a kernel as torch's compilers can follow its launch; one that Triton's interpreter runs, as it is."""
    # torch 2.6 refuses the interpreter's kernels; 2.15 gives them back.
    return wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel


@triton_op("tdbench::squeeze", mutates_args=())
def squeeze(x: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    """Return the mean of each channel of `x` (N, C, H, W), fp32 (N, C), and its first maximum, int32 (N, C).

    The maximum is a flat position; NaN counts as -inf. With `relu`, both are of relu(x). Neither has a gradient.
    """
    grid, block = blocks_of(x)
    means = torch.empty(x.shape[:2], device=x.device, dtype=torch.float32)
    peaks = torch.empty(x.shape[:2], device=x.device, dtype=torch.int32)
    traceable(_squeeze_kernel)[grid[:1]](x, means, peaks, x.shape[1], x.shape[2] * x.shape[3], RELU=relu, **block)
    return means, peaks


@triton_op("tdbench::choose", mutates_args=())
def choose(
    scores: Tensor, peaks: Tensor, num_targets: int, height: int, width: int, radius: int, rescale: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Place a window around the peak of each of the `num_targets` channels of a sample that have the largest scores.

    Args:
        scores: (N, C), fp32 or fp64; of equal ones the lowest channel wins, and NaN is +inf.
        peaks, num_targets, height, width, radius, rescale: As `squeeze` finds them; K; H; W; (k - 1) / 2; a `Rescale`.

    Returns:
        The centres, int32 (N, C), -1 where there is no window; λ, fp32 (N, C); the units in the windows, int64 (N,).
    """
    num_samples, num_channels = scores.shape
    centres = torch.empty_like(peaks)
    scale = torch.empty(scores.shape, device=scores.device, dtype=torch.float32)
    area = torch.empty(num_samples, device=scores.device, dtype=torch.int64)
    block_c = triton.next_power_of_2(int(num_channels))
    traceable(_choose_kernel)[(num_samples,)](
        *(scores, peaks, centres, scale, area, num_channels, num_targets, height, width, radius),
        RESCALE=rescale,
        BLOCK_C=block_c,
        BLOCK_RIVALS=min(block_c, max(1, 4096 // block_c)),
    )
    return centres, scale, area


@triton_op("tdbench::drop", mutates_args=())
def drop(x: Tensor, centres: Tensor, scale: Tensor, radius: int, relu: bool) -> Tensor:
    """Return `x` (N, C, H, W), or relu(x), times λ, `scale` (N, C), and with its windows zeroed, in its memory format.

    `centres` (N, C) are flat positions, -1 where a channel has no window; `radius` is (k - 1) / 2.
    """
    grid, block = blocks_of(x)
    out = torch.empty_like(x)
    sizes = x.shape[1], x.shape[2] * x.shape[3], radius
    traceable(_drop_kernel)[grid](x, centres, scale, out, *sizes, WIDTH=int(x.shape[3]), RELU=relu, **block)
    return out


@triton_op("tdbench::relu_drop_backward", mutates_args=())
def relu_drop_backward(grad: Tensor, out: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of `drop` with `relu`, from its result `out`, in the memory format of `out`."""
    grad = grad.contiguous(memory_format=memory_format_of(out))
    grid, block = blocks_of(out)
    result = torch.empty_like(out)
    traceable(_relu_backward_kernel)[grid](grad, out, scale, result, out.shape[1], out.shape[2:].numel(), **block)
    return result


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, centres, scale, ctx.radius, ctx.relu = inputs
    ctx.memory_format = memory_format_of(x)
    ctx.save_for_backward(output if ctx.relu else centres, scale)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    mask, scale = ctx.saved_tensors
    if ctx.relu:
        return relu_drop_backward(grad, mask, scale), None, None, None, None
    grad = grad.contiguous(memory_format=ctx.memory_format)
    return drop(grad, mask, scale, ctx.radius, False), None, None, None, None


drop.register_autograd(_backward, setup_context=_save)
# It is linear in the gradient and its own adjoint; the signs of `out` have no gradient.
relu_drop_backward.register_autograd(
    lambda ctx, grad: (relu_drop_backward(grad, *ctx.saved_tensors), None, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:]),
)
