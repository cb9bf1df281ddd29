"""The CorrDrop layer; the package's docstring describes the method."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate


class CorrDrop(Regularizer):
    """Spatial CorrDrop.

    Args:
        p: Strength in [0, 1]; the share of units dropped is a part of it, see `nominal_share`.
        block_size: Side of a cell in pixels, at least 1; one less than the map's side where it is larger than that.
    """

    traits = Traits("blocks", shared=True)
    rises_live = True

    def __init__(self, p: float = 0.2, block_size: int = 5) -> None:
        super().__init__()
        check_rate("p", p)
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.full_rate, self.block_size = p, block_size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        num_samples, num_channels, height, width = x.shape
        down, across = cells_along(height, self.block_size), cells_along(width, self.block_size)
        pooled = F.avg_pool2d(
            x.detach().float(), (down.size, across.size), padding=(down.padding, across.padding), count_include_pad=True
        )
        vectors = F.normalize(pooled.flatten(2), dim=1)  # (N, C, cells)
        cosines = (vectors.transpose(1, 2) @ vectors).abs()
        num_cells = cosines.shape[1]
        scores = (cosines.sum(dim=2) - cosines.diagonal(dim1=1, dim2=2)) / num_cells
        # A map of one cell has no others to correlate with; softmax would always protect it, and disable the layer.
        protected = (torch.rand_like(scores) < scores.softmax(dim=1)) & (num_cells > 1)
        share = (~protected).float().mean().clamp(min=torch.finfo(torch.float32).tiny)  # of the batch
        rate = self.live_rate * cell_rate(height, width, down, across)
        rate = (rate.float() if isinstance(rate, Tensor) else rate) / share
        dropped = (~protected & (torch.rand_like(scores) < rate)).view(num_samples, 1, down.number, across.number)
        spread = F.interpolate(dropped.float(), scale_factor=(down.size, across.size), mode="nearest") > 0
        whole = spread[:, :, down.first : down.first + height, across.first : across.first + width]
        num_dropped = whole.sum() * num_channels
        scale = x.numel() / (x.numel() - num_dropped).clamp(min=1)
        return torch.where(whole, 0.0, x * scale.to(x.dtype)), num_dropped

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return the share of a cell that is cut: softmax protects one cell of a map in the mean."""
        _, height, width = shape
        down, across = cells_along(height, self.block_size), cells_along(width, self.block_size)
        num_cells = down.number * across.number
        unprotected = 1.0 if num_cells == 1 else 1 - 1 / num_cells
        return min(unprotected, self.full_rate * cell_rate(height, width, down, across))

    def block(self) -> int:
        return self.block_size

    def block_in(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        return cells_along(shape[1], self.block_size).size, cells_along(shape[2], self.block_size).size


class Cells(NamedTuple):
    """The cells along one side of a map.

    Attributes:
        size: Side of a cell in pixels.
        padding: Zeros before and behind the map, where cells do not divide it.
        number: How many cells are averaged.
        first: The pixel of the first cell with which the map begins, when a mask is spread over it.
    """

    size: int
    padding: int
    number: int
    first: int


def cells_along(side: int, block_size: int) -> Cells:
    size = block_size if block_size <= side else max(1, side - 1)
    padding = -(-(size - side % size) // 2) if side % size else 0
    number = (side + 2 * padding) // size
    return Cells(size, padding, number, (number * size - side) // 2)


def cell_rate(height: int, width: int, down: Cells, across: Cells) -> float:
    """Return the chance of a cell to be dropped at p = 1: the map's area over that of the padded cells."""
    return height * width / (down.size * across.size * down.number * across.number)
