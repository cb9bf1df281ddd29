"""Cutout: one square hole per image, its centre uniform over the image, clipped at the border, filled with 0.

DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552. The hole is
cut after normalisation, so that 0 is the mean. Because of the clipping, the mean share that is masked is below
(L / side)²: 19.1 % at L = 16 and 5.5 % at L = 8 on 32×32.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer, Traits, keep_mask


class Cutout(Regularizer):
    """One hole per image; a rising schedule cuts a rising share of the images.

    Args:
        size: L, the side of the hole in pixels, at least 1.
    """

    traits = Traits("blocks", shared=True, rescales=False)

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (N, C, H, W) with their holes, and the number of units in them."""
        num_samples, num_channels, height, width = x.shape
        down = self._in_hole(x, num_samples, height)[:, None, :, None]
        across = self._in_hole(x, num_samples, width)[:, None, None, :]
        hole = down & across
        if self.rate < 1:
            hole = hole & ~keep_mask(x, (num_samples, 1, 1, 1), self.rate)
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
        """Return the side of the hole."""
        return self.size

    def _mean_extent(self, length: int) -> float:
        """Return the mean share of a side that a hole covers."""
        firsts = range(-(self.size // 2), length - self.size // 2)
        return sum(min(first + self.size, length) - max(first, 0) for first in firsts) / length**2


class CutoutConfig(RegularizerConfig):
    """The knobs of Cutout."""

    placement: ClassVar[Literal["input"]] = "input"
    strength_knob = "size"

    name: Literal["cutout"] = knob("cutout", "a square hole is cut into each image")
    size: int = knob(
        16,
        "L, side of the hole in pixels",
        ge=1,
        source="paper: 16 on CIFAR-10, 8 on CIFAR-100, 20 on SVHN",
        sweep=(4, 8, 12, 16, 20),
    )

    def strength_range(self) -> tuple[int, int]:
        """Return holes from one pixel to one that covers any image, wherever its centre is."""
        return 1, 8192

    def build(self, channels: int, depth: float = 1.0) -> Cutout:
        """Return the layer; it does not depend on the number of channels."""
        return Cutout(**self.knobs())
