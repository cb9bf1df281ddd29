"""TargetDrop by compiled kernels, Triton's on CUDA and C++ on a CPU: where they apply, and how they make up the layer.

Same scores, same mask. The squeeze adds up in another order than torch's mean, so that channels whose attention agrees
to the last few bits may rank otherwise than in the plain form.
"""

import os
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from tdbench.regularizers._targets import Region, choose_windows, draws, excite, share_of
from tdbench.regularizers._windows import Rescale, centres_by_channel, drop_dense, radius_of, scales, straight_through

GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # double precision stays with the plain form
MAX_CHANNELS = 4096  # every channel of a sample is compared with every other
MAX_POSITIONS = 2**20  # a grid has at most 65,535 blocks along the map

Weights = tuple[Tensor, Tensor]  # W1 (hidden, C) and W2 (C, hidden)


def applies_to(x: Tensor, chooses_plainly: bool) -> bool:
    """Return whether kernels take `x` (N, C, H, W): its device, type, memory order and size.

    Args:
        x: Feature map.
        chooses_plainly: Nothing is drawn at random, and the scores are at most fp32 and need no gradient; a CPU leaves
            all else to the plain form.
    """
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        return False
    num_channels, num_positions = x.shape[1], x.shape[2] * x.shape[3]
    if x.device.type == "cuda":
        return (
            runs_triton(x.device)
            and x.dtype in GPU_DTYPES
            and num_channels <= MAX_CHANNELS
            and num_positions <= MAX_POSITIONS
            and num_channels * num_positions < 2**31  # offsets within a sample have 32 bits
        )
    # What only follows the operators of torch, a compiler or a tracer, gets the plain form.
    return (
        x.device.type == "cpu"
        and chooses_plainly
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and type(x) in (Tensor, nn.Parameter)
        and runs_native(x.dtype)
        and num_positions < 2**31
    )


def runs_triton(device: torch.device) -> bool:
    """Return whether Triton is installed, knows this GPU, and is not switched off by TDBENCH_TRITON=0."""
    if os.environ.get("TDBENCH_TRITON") == "0" or torch.cuda.get_device_capability(device) < (7, 0):
        return False
    try:
        import tdbench.regularizers.targetdrop_triton  # noqa: F401
    except ImportError:
        return False
    return True


def runs_native(dtype: torch.dtype) -> bool:
    """Return whether the C++ kernel was built at the installation, and is not switched off by TDBENCH_NATIVE=0."""
    if os.environ.get("TDBENCH_NATIVE") == "0":
        return False
    try:
        from tdbench.regularizers import targetdrop_cpu
    except ImportError:
        return False
    return dtype in targetdrop_cpu.DTYPES


# What torch.compiler.assume_constant_result does; to call it imports the whole compiler, seconds and 160 MiB, though
# most commands compile nothing.
runs_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


def target_drop(
    x: Tensor,
    scores: Tensor | None,
    weights: Weights | None,
    drop_ratio: float,
    block_size: int,
    target_fraction: float | None,
    region: Region,
    rescale: Rescale,
    generator: torch.Generator | None,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return `x` (N, C, H, W), or relu(x), with its target regions dropped, and the number of units dropped.

    What is random is drawn by the plain form's own code, so that the masks are the same. A compiler gets the last pass
    as one pointwise expression, which it fuses with its neighbours; backward then costs no pass of its own.

    Args:
        x: A feature map to which the kernels apply.
        scores: Attention (N, C); None: that which `weights` make of the channel means.
        weights: Of the attention; None: it is the channel means.
        drop_ratio, block_size, target_fraction, region, rescale, generator: As in `target_drop2d`; γ > 0.
        relu: `x` is the map before its ReLU; in eager mode only, and with scores that need no gradient.
    """
    radius = radius_of(block_size, x)
    num_dropped = share_of(drop_ratio, x.shape[1])
    if x.device.type == "cpu":
        from tdbench.regularizers import targetdrop_cpu

        return targetdrop_cpu.target_drop(x, scores, weights, num_dropped, radius, rescale, relu)
    from tdbench.regularizers import targetdrop_triton as kernels

    height, width = x.shape[2:]
    compiling = torch.compiler.is_compiling()
    with nullcontext() if compiling else torch.cuda.device_of(x):
        means, peaks = kernels.squeeze(x.detach(), relu)
        scores = excite(means, weights) if scores is None else scores
        ranked = scores.detach()
        if draws(x.shape[1], drop_ratio, target_fraction, region):
            windows = choose_windows(x, ranked, drop_ratio, block_size, target_fraction, region, generator, peaks)
            centres = centres_by_channel(x, windows).int()
            scale, area = scales(x, windows, rescale), windows.area
        else:
            ranked = ranked if ranked.dtype == torch.float64 else ranked.float()
            centres, scale, area = kernels.choose(
                ranked.contiguous(), peaks, num_dropped, height, width, radius, rescale
            )
        out = drop_dense(x, centres, scale, radius) if compiling else kernels.drop(x, centres, scale, radius, relu)
    if scores.requires_grad:
        out = straight_through(out, x.detach(), scores.sigmoid(), centres, peaks, radius, scale)
    return out, area.sum()
