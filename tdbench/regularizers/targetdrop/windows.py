"""Square windows in single channels of a feature map: find the peaks, zero the windows, scale the rest.

A dense mask would cost several passes over the map. The windows are a few per cent of its units, so that they are
written one by one at their positions in memory, after one pass that multiplies each channel by its scale. On a CPU the
rest is dozens of small operations, each as expensive as a few thousand units, so their number is kept low.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.regularizers.masking import is_followed, wide_dtype, zero_and_scale, zero_where
from tdbench.regularizers.targetdrop import Rescale


class Windows(NamedTuple):
    """The K windows of each sample: their channels, centres and areas."""

    channels: Tensor  # (N, K) int64, distinct within a sample
    rows: Tensor  # (N, K) int64, centre
    cols: Tensor  # (N, K) int64, centre
    radius: int  # (k - 1) / 2
    area: Tensor  # (N, K) int64, units inside the map


def windows_at(x: Tensor, channels: Tensor, centres: Tensor, block_size: int) -> Windows:
    """Return the windows of the chosen channels (N, K) around flat positions (N, K) of `x`."""
    height, width = x.shape[2:]
    rows, cols = centres.div(width, rounding_mode="floor"), centres.remainder(width)
    radius = radius_of(block_size, x)
    return Windows(channels, rows, cols, radius, extent(rows, radius, height) * extent(cols, radius, width))


def extent(centres: Tensor, radius: int, length: int) -> Tensor:
    """Return the number of positions that each window covers: at the border it is clipped, not shifted."""
    # min(at + radius, length - 1) - max(at - radius, 0) + 1, in fewer operations
    return centres.clamp(max=radius).sub_(centres.clamp(min=length - 1 - radius)).add_(length)


def mean_extent(block_size: int, length: int) -> float:
    """Return the mean number of positions that a clipped block covers, its centre uniform over `length` of them."""
    radius = block_size // 2
    return sum(min(at + radius, length - 1) - max(at - radius, 0) + 1 for at in range(length)) / length


def radius_of(block_size: int, x: Tensor) -> int:
    """Return (k - 1) / 2, at most the longer side of `x`, beyond which it makes no difference."""
    return min(block_size // 2, max(x.shape[2], x.shape[3]))


def peaks(x: Tensor, channels: Tensor) -> Tensor:
    """Return the flat position (N, K) of the first maximum of each chosen channel (N, K) of `x`.

    NaN counts as -inf, so that a diverging map is not hidden under its own window. On a CPU, max pooling over the whole
    map is 4 to 25 times as fast as argmax; where channels are contiguous in memory, only the chosen ones are read.
    """
    if x.device.type != "cpu" or is_followed():
        return argmax_ignoring_nan(x.flatten(2)).gather(1, channels)
    if x.is_contiguous():
        planes = x.flatten(0, 1).index_select(0, plane_numbers(x, channels)).unsqueeze(0)
        maxima, positions = F.max_pool2d(planes, planes.shape[2:], return_indices=True)
        positions = positions.view(channels.shape)
    else:
        maxima, positions = F.max_pool2d(x, x.shape[2:], return_indices=True)
        positions = positions.flatten(1).gather(1, channels)
    if math.isnan(maxima.sum()):  # on a CPU without synchronisation; a false alarm changes nothing
        planes = x.flatten(0, 1).index_select(0, plane_numbers(x, channels))
        positions = argmax_ignoring_nan(planes.flatten(1)).view(channels.shape)
    return positions


def plane_numbers(x: Tensor, channels: Tensor) -> Tensor:
    """Return n·C + c for each chosen channel (N, K), flat."""
    first = torch.arange(0, x.shape[0] * x.shape[1], x.shape[1], device=x.device)
    return (first.unsqueeze(1) + channels).flatten()


def argmax_ignoring_nan(values: Tensor) -> Tensor:
    """Return the first position of the largest number along the last dimension; NaN counts as -inf."""
    return values.where(~values.isnan(), -torch.inf).argmax(dim=-1)


def scales(x: Tensor, windows: Windows, rescale: Rescale) -> Tensor:
    """Return λ (N, C) in fp32 or wider; 1 where nothing is kept."""
    num_samples, num_channels, height, width = x.shape
    ones = torch.ones(num_samples, num_channels, device=x.device, dtype=wide_dtype(x))
    if rescale == "none":
        return ones
    if rescale == "layer":
        return ones * ratio_to_kept(num_channels * height * width, windows.area.sum(dim=1, keepdim=True), ones.dtype)
    return ones.scatter(1, windows.channels, ratio_to_kept(height * width, windows.area, ones.dtype))


def ratio_to_kept(num_units: int, area: Tensor, dtype: torch.dtype) -> Tensor:
    """Return num_units / (num_units - area), rounded once; 1 where nothing is kept."""
    total = torch.full((), num_units, dtype=dtype, device=area.device)  # a number over a tensor would round twice
    return (total / (num_units - area)).nan_to_num_(posinf=1.0)


def drop_windows(x: Tensor, windows: Windows, scale: Tensor) -> Tensor:
    """Return `x` (N, C, H, W) with its windows zeroed and the rest times `scale` (N, C); the gradient likewise."""
    if is_followed():
        return drop_dense(x, centres_by_channel(x, windows), scale, windows.radius)
    strides = torch.empty_like(x, device="meta").stride()  # dense, and in the memory format of x
    samples, channels, rows, cols = indices(x, windows)
    positions = rows * strides[2] + (cols * strides[3] + (samples * strides[0] + channels * strides[1]))
    return zero_and_scale(x, scale[:, :, None, None], positions.flatten(), strides)


def indices(x: Tensor, windows: Windows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four index tensors that broadcast to (rows, columns, N, K): every unit of every window of `x`.

    Positions beyond the border are clamped onto it, which belongs to the window anyway. The windows come last because
    there are many of them, and the CPU is fast along a long last dimension.
    """
    samples = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    rows = reach(windows.rows, windows.radius, x.shape[2]).unsqueeze(1)
    return samples, windows.channels, rows, reach(windows.cols, windows.radius, x.shape[3])


def reach(centres: Tensor, radius: int, length: int) -> Tensor:
    """Return the positions (2r + 1, N, K) around `centres` (N, K) along a side, each clamped to the map."""
    radius = min(radius, length - 1)
    offsets = torch.arange(-radius, radius + 1, device=centres.device).view(-1, 1, 1)
    return (centres + offsets).clamp_(0, length - 1)


def drop_dense(x: Tensor, centres: Tensor, scale: Tensor, radius: int) -> Tensor:
    """Return what `drop_windows` returns, as one pointwise expression that a compiler fuses with its neighbours.

    Args:
        x: Feature map (N, C, H, W).
        centres: Flat positions (N, C) of the windows' centres; -1 where a channel has no window.
        scale: λ (N, C).
        radius: (k - 1) / 2.
    """
    height, width = x.shape[2:]
    centres = centres[:, :, None, None]
    rows, cols = (torch.arange(length, device=x.device, dtype=centres.dtype) for length in (height, width))
    near_row = (rows.view(-1, 1) - centres // width).abs() <= radius
    near_col = (cols - centres % width).abs() <= radius
    inside = (centres >= 0) & near_row & near_col
    return zero_where(inside, (x * scale[:, :, None, None]).to(x.dtype))


def centres_by_channel(x: Tensor, windows: Windows) -> Tensor:
    """Return the flat position of the centre of each channel's window (N, C); -1 where it has none."""
    nowhere = torch.full(x.shape[:2], -1, device=x.device)
    return nowhere.scatter(1, windows.channels, windows.rows * x.shape[3] + windows.cols)


def every_channel(x: Tensor) -> Tensor:
    """Return the indices of all channels, for each sample (N, C)."""
    return torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)


def straight_through(
    out: Tensor, x: Tensor, attention: Tensor, centres: Tensor, all_peaks: Tensor, radius: int, scale: Tensor
) -> Tensor:
    """Return `out` unchanged, with a gradient for `attention` M (N, C) as if the hard choice T were M itself.

    out_c = U_c · (1 - T_c · W_c) · λ_c, with W_c the window of channel c (where it is not dropped and `centres` (N, C)
    has -1, around its peak) and λ held constant, so that d out_c / d T_c = -U_c · W_c · λ_c; the straight-through
    estimate hands it to M_c. Not in the paper, which trains nothing here. The map's own gradient stays what it is with
    `se`.
    """
    windows = windows_at(x, every_channel(x), torch.where(centres < 0, all_peaks, centres), 2 * radius + 1)
    return _StraightThrough.apply(out, attention, x, scale, *indices(x, windows))


class _StraightThrough(torch.autograd.Function):
    """Identity in `out`; the gradient of `attention` is -λ · sum over the window of (gradient · U)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(out, attention, x, scale, samples, channels, rows, cols):  # type: ignore[no-untyped-def]
        return out.view_as(out)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, scale, *unit = ctx.saved_tensors
        _, _, rows, cols = unit
        # Positions beyond the border were clamped onto it: count each row and column once.
        once = first_of_each(rows) & first_of_each(cols)
        terms = (grad[tuple(unit)] * x[tuple(unit)]).to(scale.dtype) * once
        return grad, -scale * terms.sum(dim=(0, 1)), None, None, None, None, None, None


def first_of_each(ascending: Tensor) -> Tensor:
    """Return where a value along the first dimension differs from the one before it."""
    first = torch.ones_like(ascending[:1], dtype=torch.bool)
    return torch.cat([first, ascending[1:] != ascending[:-1]])
