"""The FocusedDropout layer; the package's docstring describes the method."""

import torch
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask


class FocusedDropout(Regularizer):
    """FocusedDropout; a rising schedule lets a rising share of the steps take part.

    Args:
        participation: Probability of a step to take part, in (0, 1].
        low, high: Range of r, in [0, 1], low at most high.
    """

    traits = Traits("units", shared=True, rescales=False)
    rises_live = True

    def __init__(self, participation: float = 0.1, low: float = 0.3, high: float = 0.6) -> None:
        super().__init__()
        for name, value in (("participation", participation), ("low", low), ("high", high)):
            check_rate(name, value)
        if participation == 0:
            raise ValueError(f"participation must be greater than 0, got {participation}")
        if low > high:
            raise ValueError(f"low must be at most high = {high}, got {low}")
        self.full_rate, self.low, self.high = participation, low, high

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        num_samples, num_channels = x.shape[:2]
        detached = x.detach()
        strongest = detached.mean(dim=(2, 3), dtype=torch.float32).argmax(dim=1)
        reference = detached[torch.arange(num_samples, device=x.device), strongest].unsqueeze(1)
        share = self.low + (self.high - self.low) * torch.rand(num_samples, 1, 1, 1, device=x.device)
        keep = reference > share * reference.amax(dim=(2, 3), keepdim=True)
        # One draw for the whole batch: a step that does not take part keeps all.
        keep = keep | keep_mask(x, (1, 1, 1, 1), self.live_rate)
        return torch.where(keep, x, 0.0), (~keep).sum() * num_channels
