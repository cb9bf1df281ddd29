"""The Triton kernels of TargetDrop; `gpu.py` launches them.

One kernel serves both memory formats: a block spans channels × positions, and only its shape differs. All arithmetic is
fp32, and a result is rounded once.
"""

# mypy: disable-error-code="no-untyped-def"
# Nothing from `triton.language` by its own name: inductor copies a kernel's source into a module that knows only `tl`.

import triton
import triton.language as tl


@triton.jit
def _sample_and_channel(num_channels, BLOCK_C: tl.constexpr):
    # Neighbours in memory run at the same time.
    num_blocks = tl.cdiv(num_channels, BLOCK_C)
    channel = tl.program_id(0) % num_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    return (tl.program_id(0) // num_blocks).to(tl.int64), channel


@triton.jit
def _units(channel, position, num_channels, num_positions, CHANNELS_LAST: tl.constexpr):
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
def squeeze_kernel(
    x_ptr,
    means_ptr,
    peaks_ptr,
    num_channels,
    num_positions,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
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
def choose_kernel(
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
    RESCALE: tl.constexpr,
    COUNTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_RIVALS: tl.constexpr,
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
    if COUNTS:  # whole numbers, so that the order of the samples makes no difference
        tl.atomic_add(area_ptr, dropped.to(tl.int64))
        tl.atomic_add(area_ptr + 1, tl.sum(exists.to(tl.int64), axis=0) * height * width)
    else:
        tl.store(area_ptr + sample, dropped.to(tl.int64))


@triton.jit
def drop_kernel(
    x_ptr,
    centres_ptr,
    scale_ptr,
    out_ptr,
    num_channels,
    num_positions,
    radius,
    WIDTH: tl.constexpr,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
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
def relu_backward_kernel(
    grad_ptr,
    out_ptr,
    scale_ptr,
    result_ptr,
    num_channels,
    num_positions,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
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
