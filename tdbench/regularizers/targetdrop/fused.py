"""TargetDrop by compiled kernels, Triton on a GPU and C++ on a CPU: where they apply, and how they form the layer.

Equal scores give equal masks. The squeeze sums in another order than torch's mean, so channels whose attention differs
in the last few bits only may rank differently than in the plain form.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tdbench.regularizers.base import DropMeter, live_share_of, share_of
from tdbench.regularizers.kernels import constant_in_graphs, imports, modules_named, runs_cpp
from tdbench.regularizers.masking import is_followed
from tdbench.regularizers.targetdrop import Region, Rescale
from tdbench.regularizers.targetdrop.targets import choose_windows, draws, excite
from tdbench.regularizers.targetdrop.windows import centres_by_channel, drop_dense, radius_of, scales, straight_through

GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # double precision stays with the plain form
CPU_DTYPES = (torch.float32, torch.bfloat16)
MAX_CHANNELS = 4096  # every channel of a sample is compared with every other
MAX_POSITIONS = 2**20  # a grid has at most 65,535 blocks along the map


class Knobs(NamedTuple):
    """The knobs of `target_drop2d`; γ > 0, and where it rises on the device, the same as a tensor (0-dim, fp64)."""

    drop_ratio: float
    block_size: int
    target_fraction: float | None
    region: Region
    rescale: Rescale
    generator: torch.Generator | None
    live_ratio: Tensor | None = None

    def num_targets(self, num_channels: int) -> int | Tensor:
        """Return K, where nothing is drawn."""
        if self.live_ratio is None:
            return share_of(self.drop_ratio, num_channels)
        return live_share_of(self.live_ratio, num_channels)


Weights = tuple[Tensor, Tensor]  # W1 (hidden, C) and W2 (C, hidden) of the attention
# (x, scores, weights, knobs, relu, meter) -> (the dropped map, the number of units dropped); see `by_triton`.
Form = Callable[[Tensor, Tensor | None, Weights | None, Knobs, bool, DropMeter | None], tuple[Tensor, Tensor | None]]


def fused_form(x: Tensor, is_deterministic: bool) -> Form | None:
    """Return the form whose kernels support the device, dtype, memory format and size of `x`, or None.

    Args:
        x: Feature map (N, C, H, W).
        is_deterministic: Nothing is drawn at random, and the scores are at most fp32 and need no gradient; the CPU form
            supports nothing else.
    """
    is_dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    if not is_dense or (is_followed() and not torch.compiler.is_compiling()):  # torch.compile takes all kernels
        return None
    num_channels, num_positions = x.shape[1], x.shape[2] * x.shape[3]
    if x.device.type == "cuda":
        fits = (
            x.dtype in GPU_DTYPES
            and num_channels <= MAX_CHANNELS
            and num_positions <= MAX_POSITIONS
            and num_channels * num_positions < 2**31  # offsets within a sample have 32 bits
        )
        return by_triton if fits and runs_triton(x.device) else None
    # Tracers and tensor subclasses can only follow torch's own operators: they get the plain form.
    followed = torch.jit.is_tracing() or type(x) not in (Tensor, nn.Parameter)
    fits = x.device.type == "cpu" and x.dtype in CPU_DTYPES and num_positions < 2**31
    return by_cpp if fits and is_deterministic and not followed and runs_cpp() else None


@constant_in_graphs
def runs_triton(device: torch.device) -> bool:
    """Return whether Triton is installed, supports this GPU, and is not switched off by TDBENCH_TRITON=0."""
    return os.environ.get("TDBENCH_TRITON") != "0" and supports_triton(device)


@cache  # torch takes as long to say it as a launch takes
def supports_triton(device: torch.device) -> bool:
    """Return whether Triton is installed and supports this GPU."""
    return torch.cuda.get_device_capability(device) >= (7, 0) and all(imports(name) for name in modules_named("gpu"))


def by_cpp(
    x: Tensor, scores: Tensor | None, weights: Weights | None, knobs: Knobs, relu: bool, meter: DropMeter | None
) -> tuple[Tensor, Tensor | None]:
    """Do as `by_triton`, on a CPU, where nothing is drawn at random and the scores need no gradient."""
    from tdbench.regularizers.targetdrop import cpu

    num_targets, radius = knobs.num_targets(x.shape[1]), radius_of(knobs.block_size, x)
    return cpu.target_drop(x, scores, weights, num_targets, radius, knobs.rescale, relu)


def by_triton(
    x: Tensor, scores: Tensor | None, weights: Weights | None, knobs: Knobs, relu: bool, meter: DropMeter | None
) -> tuple[Tensor, Tensor | None]:
    """Return `x` (N, C, H, W), or relu(x), with its target regions dropped, and the number of units dropped.

    Random numbers are drawn by the plain form's code, so that the masks are the same. torch.compile gets the last pass
    as one pointwise expression, which it fuses with its neighbours; backward then costs no pass of its own.

    Args:
        x: A feature map that the kernels support.
        scores: Attention (N, C); None: computed from the channel means by `weights`.
        weights: Those of the attention; None: the scores are the channel means.
        knobs: How much is dropped, and where.
        relu: `x` is the map before its ReLU; in eager mode only, and with scores that need no gradient.
        meter: Where units are counted: in eager mode, and where nothing is drawn, the kernels do that, and the number
            is None.
    """
    from tdbench.regularizers.targetdrop import gpu as kernels

    drop_ratio, block_size, target_fraction, region, rescale, generator, _ = knobs
    radius = radius_of(block_size, x)
    height, width = x.shape[2:]
    compiling = torch.compiler.is_compiling()
    counts = None if meter is None or compiling else meter.on(x.device)
    with nullcontext() if compiling else torch.cuda.device_of(x):
        blocks = kernels.blocks_of(x)
        num_targets = knobs.num_targets(x.shape[1])
        is_drawn = draws(x.shape[1], drop_ratio, target_fraction, region)
        if scores is None and not is_drawn and kernels.attends(weights):
            centres, scale, area = kernels.squeeze_and_choose(
                x.detach(), weights, num_targets, radius, rescale, relu, blocks, counts
            )
        else:
            means, peaks = kernels.squeeze(x.detach(), relu, blocks)
            scores = excite(means, weights) if scores is None else scores
            ranked = scores.detach()
            if is_drawn:
                windows = choose_windows(x, ranked, drop_ratio, block_size, target_fraction, region, generator, peaks)
                centres = centres_by_channel(x, windows).int()
                scale, area, counts = scales(x, windows, rescale), windows.area, None
            else:
                ranked = ranked if ranked.dtype == torch.float64 else ranked.float()
                centres, scale, area = kernels.choose(
                    ranked.contiguous(), peaks, num_targets, height, width, radius, rescale, counts
                )
        out = (
            drop_dense(x, centres, scale, radius)
            if compiling
            else kernels.drop(x, centres, scale, radius, relu, blocks)
        )
    if scores is not None and scores.requires_grad:
        out = straight_through(out, x.detach(), scores.sigmoid(), centres, peaks, radius, scale)
    return out, area.sum() if counts is None else None
