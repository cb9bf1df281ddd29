"""TargetDrop in plain loops and float64, after Zhu & Zhao (arXiv 2010.10716). Slow on purpose: check it by eye.

It shares no line with the code under test, and holds for ρ = γ, where nothing is drawn. At the end are the feature
maps to try it on.
"""

import math
from decimal import Decimal

import torch
from hypothesis import strategies as st
from torch import Tensor


def share_of(ratio: float, num_channels: int) -> int:
    """K = floor(γ·C) of γ as it is written, so that 0.29 of 100 is 29; at least 1 when γ > 0, and 0 when γ = 0."""
    if ratio == 0:
        return 0
    return max(1, math.floor(Decimal(str(ratio)) * num_channels))


def logits(x: Tensor, fc1: Tensor, fc2: Tensor) -> list[list[float]]:
    """W2 · relu(W1 · v) for each sample, v_c the mean of channel c; the sigmoid would not change the order."""
    all_logits = []
    for sample in x.double().tolist():
        means = [sum(map(sum, plane)) / (len(plane) * len(plane[0])) for plane in sample]
        hidden = [max(0.0, sum(w * v for w, v in zip(row, means, strict=True))) for row in fc1.double().tolist()]
        all_logits.append([sum(w * h for w, h in zip(row, hidden, strict=True)) for row in fc2.double().tolist()])
    return all_logits


def top_channels(scores: list[float], num_channels: int) -> list[int]:
    """The channels with the largest scores; of equal scores the lowest channel comes first."""
    chosen: list[int] = []
    for _ in range(num_channels):
        best = None
        for channel, score in enumerate(scores):
            if channel not in chosen and (best is None or score > scores[best]):
                best = channel
        assert best is not None
        chosen.append(best)
    return chosen


def peak(plane: list[list[float]]) -> tuple[int, int]:
    """The first position (row, column) of the largest number; NaN is lower than every number."""
    position, largest = (0, 0), None
    for row, values in enumerate(plane):
        for col, value in enumerate(values):
            if not math.isnan(value) and (largest is None or value > largest):
                position, largest = (row, col), value
    return position


def window(height: int, width: int, centre: tuple[int, int], block_size: int) -> set[tuple[int, int]]:
    """The positions of the map within the k×k square round `centre`: clipped at the border, not shifted."""
    radius = (block_size - 1) // 2
    positions = set()
    for row in range(height):
        for col in range(width):
            if abs(row - centre[0]) <= radius and abs(col - centre[1]) <= radius:
                positions.add((row, col))
    return positions


def keep_and_scale(
    x: Tensor, scores: list[list[float]], drop_ratio: float, block_size: int, rescale: str
) -> tuple[Tensor, Tensor]:
    """S (N, C, H, W), which is 0 inside the windows of the target channels and 1 elsewhere, and λ (N, C)."""
    num_samples, num_channels, height, width = x.shape
    keep = torch.ones(x.shape, dtype=torch.float64)
    scale = torch.ones(num_samples, num_channels, dtype=torch.float64)
    for n in range(num_samples):
        targets = top_channels(scores[n], share_of(drop_ratio, num_channels))
        area = {}
        for c in targets:
            positions = window(height, width, peak(x[n, c].tolist()), block_size)
            area[c] = len(positions)
            for row, col in positions:
                keep[n, c, row, col] = 0
        for c in range(num_channels):
            if rescale == "channel" and c in targets:
                total, kept = height * width, height * width - area[c]
            elif rescale == "layer":
                total = num_channels * height * width
                kept = total - sum(area.values())
            else:
                total, kept = 1, 1
            scale[n, c] = total / kept if kept > 0 else 1.0  # nothing is kept: nothing is left to scale
    return keep, scale


def target_drop2d(
    x: Tensor, scores: Tensor | list[list[float]], drop_ratio: float = 0.15, block_size: int = 5, rescale="channel"
) -> tuple[Tensor, Tensor]:
    """The output, and what its gradient is multiplied by on the way to `x`: 0 inside the windows, λ outside."""
    if isinstance(scores, Tensor):
        scores = scores.tolist()
    keep, scale = keep_and_scale(x, scores, drop_ratio, block_size, rescale)
    multiplier = keep * scale[:, :, None, None]
    out = torch.zeros(x.shape, dtype=torch.float64)  # inside the windows: zero, whatever was there
    for unit in multiplier.nonzero().tolist():
        out[tuple(unit)] = x[tuple(unit)].double() * multiplier[tuple(unit)]
    return out, multiplier


def straight_through_gradients(
    x: Tensor, fc1: Tensor, fc2: Tensor, grad: Tensor, drop_ratio: float, block_size: int, rescale: str
) -> tuple[Tensor, Tensor]:
    """The gradients of W1 and W2 by dense autograd, with T + M - M.detach() in the place of the hard choice T.

    out_c = U_c · (1 - T_c · W_c) · λ_c with W_c, the window of channel c, and λ held constant.
    """
    num_samples, num_channels, height, width = x.shape
    keep, scale = keep_and_scale(x, logits(x, fc1, fc2), drop_ratio, block_size, rescale)
    target = (keep == 0).any(3).any(2).double()
    inside = torch.zeros(x.shape, dtype=torch.float64)
    for n in range(num_samples):
        for c in range(num_channels):
            for row, col in window(height, width, peak(x[n, c].tolist()), block_size):
                inside[n, c, row, col] = 1
    w1, w2 = fc1.detach().double().requires_grad_(), fc2.detach().double().requires_grad_()
    attention = torch.sigmoid(torch.relu(x.detach().double().mean(dim=(2, 3)) @ w1.T) @ w2.T)
    soft_target = target + attention - attention.detach()
    out = x.detach().double() * (1 - soft_target[:, :, None, None] * inside) * scale[:, :, None, None]
    return torch.autograd.grad(out, (w1, w2), grad.double())


def draw_values(kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Values in float64: `normal`, or integers with many `ties`, some of them `nan` or `infinite`."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    integers = torch.randint(-2, 3, shape, generator=generator).double()  # many ties
    rare = torch.rand(shape, generator=generator)
    if kind == "nan":
        return integers.masked_fill(rare < 0.3, math.nan)
    if kind == "infinite":
        return integers.masked_fill(rare < 0.2, math.inf).masked_fill(rare > 0.4, -math.inf)
    return integers


@st.composite
def feature_maps(draw, kinds=("ties", "normal", "nan", "infinite"), min_samples=0, max_samples=3):
    """A feature map of any shape, type and memory layout, to try the layer on."""
    n, c = draw(st.integers(min_samples, max_samples)), draw(st.integers(1, 9))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 2**32))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))

    def values(*shape: int) -> Tensor:
        return draw_values(kind, shape, seed).to(dtype)

    layout = draw(st.sampled_from(["contiguous", "channels_last", "transposed", "slice", "batch", "pixels"]))
    return {
        "contiguous": lambda: values(n, c, h, w),
        "channels_last": lambda: values(n, c, h, w).to(memory_format=torch.channels_last),
        "transposed": lambda: values(n, c, w, h).transpose(2, 3),
        "slice": lambda: values(n, c + 1, 2 * h, w + 1)[:, 1:, ::2, 1:],
        "batch": lambda: values(1, c, h, w).expand(n, c, h, w),
        "pixels": lambda: values(n, c, 1, 1).expand(n, c, h, w),
    }[layout]()
