"""The Cutout layer; the package's docstring describes the method."""

import torch
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, keep_mask


class Cutout(Regularizer):
    """One hole per image; a rising schedule cuts a rising share of the images.

    Args:
        size: L, the side of the hole in pixels, at least 1.
    """

    traits = Traits("blocks", shared=True, rescales=False)
    rises_live = True

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        num_samples, num_channels, height, width = x.shape
        down = self._in_hole(x, num_samples, height)[:, None, :, None]
        across = self._in_hole(x, num_samples, width)[:, None, None, :]
        hole = down & across
        if self.live_strength is not None or self.rate < 1:
            hole = hole & ~keep_mask(x, (num_samples, 1, 1, 1), self.live_rate)
        return torch.where(hole, 0.0, x), hole.sum() * num_channels

    def _in_hole(self, x: Tensor, num_samples: int, length: int) -> Tensor:
        """Return which of `length` positions (N, length) a hole covers along one side."""
        first = torch.randint(length, (num_samples, 1), device=x.device) - self.size // 2
        positions = torch.arange(length, device=x.device)
        return (positions >= first) & (positions < first + self.size)

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return the mean masked area of a clipped hole, from its centre's uniform distribution."""
        return self._mean_extent(shape[1]) * self._mean_extent(shape[2])

    def block(self) -> int:
        return self.size

    def _mean_extent(self, length: int) -> float:
        """Return the mean share of a side that a hole covers."""
        firsts = range(-(self.size // 2), length - self.size // 2)
        return sum(min(first + self.size, length) - max(first, 0) for first in firsts) / length**2
