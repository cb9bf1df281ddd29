"""Which channels of a feature map are targets, and which of their regions are dropped."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdbench.regularizers.base import share_of
from tdbench.regularizers.masking import is_followed, wide_dtype
from tdbench.regularizers.targetdrop import Region
from tdbench.regularizers.targetdrop.windows import Windows, peaks, windows_at

CHUNK_UNITS = 2**20  # 4 MiB in fp32


def channel_means(x: Tensor) -> Tensor:
    """Return the mean (N, C) of each channel of `x` (N, C, H, W), the squeeze, in fp32 or wider."""
    wide = wide_dtype(x)
    if x.dtype == wide or x.device.type != "cpu" or is_followed():
        return x.mean(dim=(2, 3), dtype=wide)
    # The CPU widens half types into a copy before it adds them up; chunk by chunk, that copy stays in the cache.
    sums = torch.empty(x.shape[:2], dtype=wide)
    chunks = x.split(max(1, CHUNK_UNITS // x[0].numel()))
    widened = torch.empty_like(chunks[0], dtype=wide)
    for chunk, part in zip(chunks, sums.split(len(chunks[0])), strict=True):
        torch.sum(widened[: len(chunk)].copy_(chunk), dim=(2, 3), out=part)
    return sums.div_(x.shape[2] * x.shape[3])


def fan_out_normal(shape: tuple[int, int], generator: torch.Generator | None) -> Tensor:
    """Return a Kaiming-normal weight (fan-out), drawn on the generator's device."""
    weight = torch.empty(shape, device=None if generator is None else generator.device)
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)


def excite(means: Tensor, weights: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the attention logits (N, C) of channel means (N, C): W2 · relu(W1 · means), or the means themselves.

    Their sigmoid, the paper's M, ranks alike but saturates in fp32. The ranking is done in fp32 under autocast too.
    """
    if weights is None:
        return means
    device = means.device.type
    fc1, fc2 = (one if one.dtype == means.dtype else one.to(means.dtype) for one in weights)
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        return F.linear(F.linear(means, fc1).relu_(), fc2)


def draws(num_channels: int, drop_ratio: float, target_fraction: float | None, region: Region) -> bool:
    """Return whether a step draws random numbers: to choose K of more targets, or to place the windows."""
    if region == "random" or target_fraction is None:
        return region == "random"
    return share_of(target_fraction, num_channels) > share_of(drop_ratio, num_channels)


def choose_windows(
    x: Tensor,
    scores: Tensor,
    drop_ratio: float,
    block_size: int,
    target_fraction: float | None,
    region: Region,
    generator: torch.Generator | None,
    known_peaks: Tensor | None = None,
) -> Windows:
    """Return the windows to drop in `x` (N, C, H, W).

    Args:
        x: Feature map.
        scores: Attention (N, C).
        drop_ratio, block_size, target_fraction, region, generator: As in `target_drop2d`; γ > 0.
        known_peaks: The flat position of the peak of every channel (N, C); None: they are found in `x`.
    """
    num_samples, num_channels, height, width = x.shape
    num_dropped = share_of(drop_ratio, num_channels)
    num_targets = max(num_dropped, share_of(target_fraction or drop_ratio, num_channels))
    channels = top_channels(scores, num_targets)
    if num_targets > num_dropped:  # ρ > γ: this step's K channels are drawn from the targets, without replacement
        keys = uniform((num_samples, num_targets), generator, x.device)
        channels = channels.gather(1, keys.argsort(dim=1)[:, :num_dropped])
    if region == "random":
        source = source_of(generator, x.device)
        centres = torch.randint(height * width, channels.shape, generator=generator, device=source).to(x.device)
    else:
        centres = peaks(x, channels) if known_peaks is None else known_peaks.gather(1, channels).long()
    return windows_at(x, channels, centres, block_size)


def top_channels(scores: Tensor, num_channels: int) -> Tensor:
    """Return the channels (N, num_channels) with the largest `scores` (N, C), the lowest first where scores tie.

    `topk` leaves the order of ties open and a stable sort takes five times as long. So where there may be ties, each
    fp32 score becomes a unique integer key: its bits, in an order that rises with it, then the channel, descending. NaN
    is +inf.
    """
    if scores.device.type == "cpu" and not is_followed():
        values, channels = scores.topk(min(num_channels + 1, scores.shape[1]), dim=1)
        if (values[:, :-1] > values[:, 1:]).all():  # no ties and no NaN; on a CPU the check needs no synchronisation
            return channels[:, :num_channels]
    scores = scores.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf) + 0.0  # -0.0 and 0.0 tie
    if scores.dtype == torch.float64:
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :num_channels]
    bits = scores.float().view(torch.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of a negative float, all bits but the sign fall
    keys = (rising.long() << 31) - torch.arange(scores.shape[1], device=scores.device)
    return keys.topk(num_channels, dim=1).indices


def uniform(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return fp32 numbers uniform in [0, 1), drawn on the generator's device."""
    source = source_of(generator, device)
    return torch.rand(shape, generator=generator, device=source, dtype=torch.float32).to(device)


def source_of(generator: torch.Generator | None, device: torch.device) -> torch.device:
    """Return the device on which numbers are drawn.

    Raises:
        RuntimeError: A forward is repeated within a backward, as torch.utils.checkpoint does, which puts back the state
            of torch's global generators but not of another: the mask would not be that of the forward.
    """
    if generator is None:
        return device
    if torch._C._current_graph_task_id() != -1:  # torch has no public way to ask; a canary watches it
        raise RuntimeError(
            "TargetDrop with a generator of its own cannot be recomputed by torch.utils.checkpoint, since another mask "
            "would be drawn; leave generator at None, or the layer outside the checkpoint"
        )
    return generator.device
