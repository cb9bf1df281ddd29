"""AttentionDrop in plain loops, after the public code of Ouyang et al. (ICME 2019). Check it by eye."""

import torch
from torch import Tensor


def attention(x: Tensor) -> Tensor:
    """A (N, C, H, W): x scaled to [0, 1] over the channels at its position; 0 where they are all equal."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for n in range(x.shape[0]):
        for row in range(x.shape[2]):
            for col in range(x.shape[3]):
                values = x[n, :, row, col].tolist()
                low, high = min(values), max(values)
                for c, value in enumerate(values):
                    out[n, c, row, col] = (value - low) / (high - low) if high > low else 0
    return out


def attention_drop(x: Tensor, draws: Tensor, p: float, threshold: float, block_size: int) -> tuple[Tensor, Tensor]:
    """The output, and its mask before it is scaled; a candidate is picked where its draw is below p / block_size²."""
    scores, radius = attention(x), block_size // 2
    mask = torch.ones(x.shape, dtype=torch.float64)
    for n, c, row, col in (scores > threshold).nonzero().tolist():
        if draws[n, c, row, col] < p / block_size**2:
            for i in range(max(0, row - radius), min(x.shape[2], row + radius + 1)):
                for j in range(max(0, col - radius), min(x.shape[3], col + radius + 1)):
                    mask[n, c, i, j] = 1 - scores[n, c, i, j]
    return x.double() * mask * mask.numel() / mask.sum(), mask
