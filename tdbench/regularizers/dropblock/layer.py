"""The DropBlock layer; the package's docstring describes the method."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate
from tdbench.regularizers.masking import is_followed, wide_dtype, zero_and_scale, zero_where
from tdbench.regularizers.seeds import bernoulli_positions


def drop_block2d(x: Tensor, p: float = 0.1, block_size: int = 7) -> tuple[Tensor, Tensor]:
    """Drop blocks of a feature map; there is no evaluation mode.

    Args:
        x: Feature map (N, C, H, W), floating point; its memory format is kept.
        p: Share of the units to drop, in [0, 1], as the formula of γ aims at it.
        block_size: Side of a block in pixels, at least 1, even or odd.

    Returns:
        The regularized map, and the number of units dropped.

    Raises:
        ValueError: p or block_size is out of range.
    """
    check_rate("p", p)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    return _drop(x, p, block_size)


def _drop(x: Tensor, p: float | Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Do as `drop_block2d`, without its checks; on a GPU, p may be a tensor (0-dim)."""
    height, width = x.shape[2:]
    tall, wide = min(block_size, height), min(block_size, width)
    rows, cols = height - tall + 1, width - wide + 1  # where a block's first unit may lie
    rate = p / (tall * wide) * (height * width) / (rows * cols)
    rate = rate.clamp(max=1.0) if isinstance(rate, Tensor) else min(1.0, rate)
    if x.device.type != "cpu" or is_followed():
        return _drop_dense(x, rate, (tall, wide), (rows, cols))
    # On a CPU the few seeds are drawn one by one, and only the units of their blocks are written.
    seeds = bernoulli_positions(x.shape[0] * x.shape[1] * rows * cols, float(rate))
    strides = torch.empty_like(x, device="meta").stride()  # dense, and in the memory format of x
    planes, places = seeds.div(rows * cols, rounding_mode="floor"), seeds.remainder(rows * cols)
    first = (
        planes.div(x.shape[1], rounding_mode="floor") * strides[0]
        + planes.remainder(x.shape[1]) * strides[1]
        + places.div(cols, rounding_mode="floor") * strides[2]
        + places.remainder(cols) * strides[3]
    )
    block = (torch.arange(tall)[:, None] * strides[2] + torch.arange(wide) * strides[3]).flatten()
    positions = (first[:, None] + block).flatten()
    num_dropped = torch.zeros(x.numel(), dtype=torch.bool).index_fill_(0, positions, True).count_nonzero()
    scale = x.numel() / (x.numel() - num_dropped).clamp(min=1).to(wide_dtype(x))
    return zero_and_scale(x, scale, positions, strides), num_dropped


def _drop_dense(
    x: Tensor, rate: float | Tensor, block: tuple[int, int], room: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Do the same with a dense mask, for other devices and for torch.compile."""
    seeds = (torch.rand(*x.shape[:2], *room, device=x.device) < rate).to(x.dtype)
    border = (block[1] - 1, block[1] - 1, block[0] - 1, block[0] - 1)
    dropped = F.max_pool2d(F.pad(seeds, border), block, stride=1) > 0
    num_dropped = dropped.count_nonzero()
    scale = x.numel() / (x.numel() - num_dropped).clamp(min=1).to(wide_dtype(x))
    return zero_where(dropped, (x * scale).to(x.dtype)), num_dropped


class DropBlock(Regularizer):
    """DropBlock for a feature map.

    Args:
        p: Share of the units to drop, in [0, 1].
        block_size: Side of a block in pixels.
    """

    traits = Traits("blocks", blind=True)
    rises_live = True

    def __init__(self, p: float = 0.1, block_size: int = 7) -> None:
        super().__init__()
        check_rate("p", p)
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.full_rate, self.block_size = p, block_size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _drop(x, self.live_rate, self.block_size)

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        return self.full_rate

    def block(self) -> int:
        return self.block_size
