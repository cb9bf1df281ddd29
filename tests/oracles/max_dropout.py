"""MaxDropout in plain loops, after do Santos et al. (arXiv 2007.13723) and its public code. Check it by eye."""

import torch
from torch import Tensor


def max_dropout(x: Tensor, p: float) -> Tensor:
    """The tensor scaled to [0, 1] by its own minimum and maximum: what is above 1 - p becomes 0, the rest stays."""
    values = x.double().flatten().tolist()
    low, high = min(values), max(values)
    out = []
    for value in values:
        dropped = high > low and (value - low) / (high - low) > 1 - p
        out.append(0.0 if dropped else value)
    return torch.tensor(out, dtype=torch.float64).view(x.shape)
