"""The CorrDrop layer; the package's docstring describes the method."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate


class CorrDrop(Regularizer):
    """Spatial CorrDrop.

    Args:
        p: Share of the cells to drop, in [0, 1].
        block_size: Side of a cell in pixels, at least 1; cut to the map where it is larger.
    """

    traits = Traits("blocks", shared=True)

    def __init__(self, p: float = 0.2, block_size: int = 5) -> None:
        super().__init__()
        check_rate("p", p)
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.full_rate, self.block_size = p, block_size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        num_samples, num_channels, height, width = x.shape
        cell = min(self.block_size, height), min(self.block_size, width)
        cells = F.avg_pool2d(x.detach().float(), cell, ceil_mode=True)
        vectors = F.normalize(cells.flatten(2), dim=1)  # (N, C, number of cells)
        cosines = (vectors.transpose(1, 2) @ vectors).abs()
        num_cells = cosines.shape[1]
        scores = (cosines.sum(dim=2) - cosines.diagonal(dim1=1, dim2=2)) / max(1, num_cells - 1)
        # A map of one cell has no others to correlate with; softmax would always protect it, and disable the layer.
        protected = (torch.rand_like(scores) < scores.softmax(dim=1)) & (num_cells > 1)
        share = (~protected).float().mean(dim=1, keepdim=True).clamp(min=1 / num_cells)
        dropped = ~protected & (torch.rand_like(scores) < self.rate / share)
        dropped = dropped.view(num_samples, 1, *cells.shape[2:]).float()
        whole = F.interpolate(dropped, scale_factor=cell, mode="nearest")[:, :, :height, :width] > 0
        num_dropped = whole.sum() * num_channels
        scale = x.numel() / (x.numel() - num_dropped).clamp(min=1)
        return torch.where(whole, 0.0, x * scale.to(x.dtype)), num_dropped

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        return self.full_rate

    def block(self) -> int:
        return self.block_size
