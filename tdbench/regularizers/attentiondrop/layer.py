"""The AttentionDrop layer; the package's docstring describes the method."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask
from tdbench.regularizers.masking import is_followed
from tdbench.regularizers.seeds import bernoulli_positions


class AttentionDrop(Regularizer):
    """AttentionDrop.

    Args:
        p: Strength of the picking, in [0, 1].
        threshold: β, the attention above which a unit is a candidate, in [0, 1].
        block_size: Odd side of the damped block in pixels.
    """

    traits = Traits("units")
    rises_live = True

    def __init__(self, p: float = 0.1, threshold: float = 0.8, block_size: int = 5) -> None:
        super().__init__()
        check_rate("p", p)
        check_rate("threshold", threshold)
        check_block_size(block_size)
        self.full_rate, self.threshold, self.block_size = p, threshold, block_size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) with attended blocks damped, and the number of units damped to zero."""
        size = self.block_size
        if x.device.type != "cpu" or is_followed():
            mask = dense_mask(x.detach(), self.live_rate / size**2, self.threshold, size)
        else:
            mask = sparse_mask(x.detach(), self.rate / size**2, self.threshold, size)
        scale = mask.numel() / mask.sum().clamp(min=1)
        num_damped_to_zero = mask.numel() - mask.count_nonzero()
        return x * mask.mul_(scale).to(x.dtype), num_damped_to_zero

    def block(self) -> int:
        return self.block_size


def dense_mask(x: Tensor, rate: float | Tensor, threshold: float, block_size: int) -> Tensor:
    """Return the mask (N, C, H, W) in fp32: 1 - A in the blocks around the picked candidates, 1 elsewhere."""
    low, high = x.amin(dim=1, keepdim=True).float(), x.amax(dim=1, keepdim=True).float()
    attention = attention_of(x, low, high)
    picked = (attention > threshold) & ~keep_mask(x, x.shape, rate)
    blocks = F.max_pool2d(picked.float(), block_size, stride=1, padding=block_size // 2)
    return 1 - attention * blocks


def sparse_mask(x: Tensor, rate: float, threshold: float, block_size: int) -> Tensor:
    """Return `dense_mask` on a CPU in a fifth of the time: the blocks of the few picks are written one by one."""
    height, width = x.shape[2:]
    low, high = x.amin(dim=1).float(), x.amax(dim=1).float()
    drawn = torch.unravel_index(bernoulli_positions(x.numel(), rate), x.shape)
    samples, _, rows, cols = drawn
    is_candidate = attention_of(x[drawn], low[samples, rows, cols], high[samples, rows, cols]) > threshold
    samples, channels, rows, cols = (index[is_candidate][:, None, None] for index in drawn)
    offsets = torch.arange(-(block_size // 2), block_size // 2 + 1)
    # A position beyond the border is clamped onto it, which belongs to the block anyway.
    rows = (rows + offsets[:, None]).clamp(0, height - 1)
    cols = (cols + offsets).clamp(0, width - 1)
    blocks = samples, channels, rows, cols
    mask = torch.ones_like(x, dtype=torch.float32)
    mask[blocks] = 1 - attention_of(x[blocks], low[samples, rows, cols], high[samples, rows, cols])
    return mask


def attention_of(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return A in fp32: `x` scaled to [0, 1] between the extremes over the channels; 0 where these are equal."""
    return (x.float() - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)


def check_block_size(block_size: int) -> None:
    """Raise ValueError unless `block_size` is odd and at least 1."""
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size must be odd and at least 1, got {block_size}")
