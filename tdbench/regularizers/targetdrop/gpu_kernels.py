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
    largest_ptr,
    num_channels,
    num_positions,
    RELU: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    sample, channel = _sample_and_channel(num_channels, BLOCK_C)
    part = tl.program_id(1)
    x_ptr += sample * num_channels * num_positions
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    largest = tl.full((BLOCK_C, BLOCK_P), float("-inf"), tl.float32)
    first = tl.zeros((BLOCK_C, BLOCK_P), tl.int32) + (part * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    for start in range(part * BLOCK_P, num_positions, NUM_PARTS * BLOCK_P):
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
    at = (sample * NUM_PARTS + part) * num_channels + channel
    tl.store(means_ptr + at, mean, mask=channel < num_channels)
    tl.store(peaks_ptr + at, first, mask=channel < num_channels)
    if NUM_PARTS > 1:
        tl.store(largest_ptr + at, peak, mask=channel < num_channels)


@triton.jit
def _mean(means_ptr, channel, num_channels, NUM_PARTS: tl.constexpr):
    # Each part has divided its sum by all positions.
    mean = tl.load(means_ptr + channel, mask=channel < num_channels, other=0.0)
    for part in tl.static_range(1, NUM_PARTS):
        mean += tl.load(means_ptr + part * num_channels + channel, mask=channel < num_channels, other=0.0)
    return mean


@triton.jit
def _peak(peaks_ptr, largest_ptr, channel, num_channels, NUM_PARTS: tl.constexpr):
    # The first of all maxima is the lowest position among the parts that tie.
    exists = channel < num_channels
    peak = tl.load(peaks_ptr + channel, mask=exists, other=0)
    if NUM_PARTS > 1:
        largest = tl.load(largest_ptr + channel, mask=exists, other=0.0)
        for part in tl.static_range(1, NUM_PARTS):
            at = part * num_channels + channel
            theirs = tl.load(largest_ptr + at, mask=exists, other=0.0)
            position = tl.load(peaks_ptr + at, mask=exists, other=0)
            wins = (theirs > largest) | ((theirs == largest) & (position < peak))
            largest = tl.where(wins, theirs, largest)
            peak = tl.where(wins, position, peak)
    return peak


@triton.jit
def _excite(
    means_ptr,
    fc1_ptr,
    fc2_ptr,
    scores_ptr,
    num_channels,
    num_hidden,
    NUM_PARTS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    # W2 · relu(W1 · means), a block of channels at a time; all hidden units of a sample fit into one block.
    hidden = tl.arange(0, BLOCK_HIDDEN)
    active = tl.zeros((BLOCK_HIDDEN,), tl.float32)
    for start in range(0, num_channels, BLOCK_INPUTS):
        channel = start + tl.arange(0, BLOCK_INPUTS)
        exists = (hidden < num_hidden)[:, None] & (channel < num_channels)[None, :]
        fc1 = tl.load(fc1_ptr + hidden[:, None] * num_channels + channel[None, :], mask=exists, other=0.0)
        mean = _mean(means_ptr, channel, num_channels, NUM_PARTS)
        active += tl.sum(fc1.to(tl.float32) * mean[None, :], axis=1)
    # NaN stays NaN, but where there is no unit: 0 · inf is NaN too.
    active = tl.where((active <= 0) | (hidden >= num_hidden), 0.0, active)
    for start in range(0, num_channels, BLOCK_INPUTS):
        channel = start + tl.arange(0, BLOCK_INPUTS)
        exists = (channel < num_channels)[:, None] & (hidden < num_hidden)[None, :]
        fc2 = tl.load(fc2_ptr + channel[:, None] * num_hidden + hidden[None, :], mask=exists, other=0.0)
        score = tl.sum(fc2.to(tl.float32) * active[None, :], axis=1)
        tl.store(scores_ptr + channel, score, mask=channel < num_channels)


@triton.jit
def _rank(scores_ptr, channel, num_channels, BLOCK_C: tl.constexpr, BLOCK_RIVALS: tl.constexpr):
    # How many channels of the sample are ahead of each.
    score = tl.load(scores_ptr + channel, mask=channel < num_channels, other=0.0)
    score = tl.where(score == score, score, float("inf"))  # NaN is +inf
    rank = tl.zeros((BLOCK_C,), tl.int32)
    for start in range(0, num_channels, BLOCK_RIVALS):
        rival = start + tl.arange(0, BLOCK_RIVALS)
        theirs = tl.load(scores_ptr + rival, mask=rival < num_channels, other=0.0)
        theirs = tl.where(theirs == theirs, theirs, float("inf"))[None, :]
        lower = (theirs == score[:, None]) & (rival[None, :] < channel[:, None])  # of equal scores, the lowest channel
        ahead = ((theirs > score[:, None]) | lower) & (rival < num_channels)[None, :]
        rank += tl.sum(ahead.to(tl.int32), axis=1)
    return rank


@triton.jit
def _scale(area, dropped, num_channels, num_units, RESCALE: tl.constexpr, BLOCK_C: tl.constexpr):
    scale = tl.full((BLOCK_C,), 1.0, tl.float32)
    if RESCALE != "none":
        kept = num_units - area
        if RESCALE == "layer":
            num_units *= num_channels
            kept = num_units - dropped + tl.zeros((BLOCK_C,), tl.int32)
        ratio = tl.div_rn(tl.zeros((BLOCK_C,), tl.float32) + num_units, kept.to(tl.float32))
        scale = tl.where(kept > 0, ratio, 1.0)  # nothing is kept: nothing is left to scale
    return scale


@triton.jit
def choose_kernel(
    means_ptr,
    peaks_ptr,
    largest_ptr,
    fc1_ptr,
    fc2_ptr,
    scores_ptr,
    centres_ptr,
    scale_ptr,
    area_ptr,
    targets_ptr,
    num_channels,
    num_hidden,
    num_targets,
    height,
    width,
    radius,
    NUM_PARTS: tl.constexpr,
    EXCITES: tl.constexpr,
    RESCALE: tl.constexpr,
    COUNTS: tl.constexpr,
    LIVE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_RIVALS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK_C)
    exists = channel < num_channels
    at = sample * num_channels + channel
    means_ptr += sample * NUM_PARTS * num_channels
    scores_ptr += sample * num_channels
    if EXCITES:
        _excite(
            means_ptr, fc1_ptr, fc2_ptr, scores_ptr, num_channels, num_hidden, NUM_PARTS, BLOCK_HIDDEN, BLOCK_INPUTS
        )
    elif NUM_PARTS > 1:
        mean = _mean(means_ptr, channel, num_channels, NUM_PARTS)
        tl.store(scores_ptr + channel, mean, mask=exists)
    if EXCITES or NUM_PARTS > 1:
        tl.debug_barrier()  # each thread reads below what others have stored
    rank = _rank(scores_ptr, channel, num_channels, BLOCK_C, BLOCK_RIVALS)
    if LIVE:
        num_targets = tl.load(targets_ptr)
    target = exists & (rank < num_targets)
    found = sample * NUM_PARTS * num_channels
    peak = _peak(peaks_ptr + found, largest_ptr + found, channel, num_channels, NUM_PARTS)
    area = _extent(peak // width, radius, height) * _extent(peak % width, radius, width)
    area = tl.where(target, area, 0)
    dropped = tl.sum(area, axis=0)
    scale = _scale(area, dropped, num_channels, height * width, RESCALE, BLOCK_C)
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
