"""What every method's layer shares: it acts in training mode only, and it can count what it really drops."""

import torch
from torch import Tensor, nn


class DropMeter:
    """Counts dropped units on the device, so that a step never waits for the count."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, num_dropped: Tensor, num_units: int) -> None:
        """Add one batch: `num_dropped` of its `num_units` units were set to zero by the layer's mask."""
        self.counts[0] += num_dropped
        self.counts[1] += num_units

    def read(self, reset: bool = False) -> tuple[int, int]:
        """Return (dropped units, units) since the last reset; waits for the device."""
        dropped, units = self.counts.tolist()
        if reset:
            self.counts.zero_()
        return dropped, units


class Regularizer(nn.Module):
    """A layer that is the identity in evaluation and calls `drop` in training.

    `meter` is None unless a caller wants the realised drop share; it then counts every training forward.
    """

    meter: DropMeter | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself in evaluation mode, the regularized feature map in training mode."""
        if not self.training:
            return x
        out, num_dropped = self.drop(x)
        if self.meter is not None:
            self.meter.add(num_dropped, x.numel())
        return out

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the regularized feature map and the number of units that its mask sets to zero (0-dim, int64)."""
        raise NotImplementedError
