"""FocusedDropout: keeps the positions that the strongest channel attends to, and drops the rest in every channel.

Liu et al., "FocusedDropout for Convolutional Neural Network", arXiv 2103.15425: the channel with the largest mean is
the reference; positions where it exceeds r times its maximum are kept, r uniform in a range and drawn per sample; the
same mask serves all channels; nothing is rescaled; a step takes part with a probability of 10 %.
"""

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask


class FocusedDropout(Regularizer):
    """FocusedDropout; a rising schedule lets a rising share of the steps take part.

    Args:
        participation: Probability of a step to take part, in [0, 1].
        low, high: Range of r, in [0, 1], low at most high.
    """

    traits = Traits("units", shared=True, rescales=False)

    def __init__(self, participation: float = 0.1, low: float = 0.3, high: float = 0.6) -> None:
        super().__init__()
        for name, value in (("participation", participation), ("low", low), ("high", high)):
            check_rate(name, value)
        if low > high:
            raise ValueError(f"low must be at most high = {high}, got {low}")
        self.full_rate, self.low, self.high = participation, low, high

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) with unfocused positions dropped, and the number of units dropped."""
        num_samples, num_channels = x.shape[:2]
        detached = x.detach()
        strongest = detached.mean(dim=(2, 3), dtype=torch.float32).argmax(dim=1)
        reference = detached[torch.arange(num_samples, device=x.device), strongest].unsqueeze(1)
        share = self.low + (self.high - self.low) * torch.rand(num_samples, 1, 1, 1, device=x.device)
        keep = reference > share * reference.amax(dim=(2, 3), keepdim=True)
        # The coin of the whole batch: a step that stays out keeps all.
        keep = keep | keep_mask(x, (1, 1, 1, 1), self.rate)
        return torch.where(keep, x, 0.0), (~keep).sum() * num_channels


class FocusedDropoutConfig(RegularizerConfig):
    """The knobs of FocusedDropout."""

    strength_knob = "participation"
    share_is_proportional = True

    name: Literal["focused_dropout"] = knob(
        "focused_dropout", "positions off the strongest channel's focus are dropped"
    )
    participation: float = knob(
        0.1, "share of the steps that take part", ge=0, le=1, source="paper", sweep=(0.05, 0.1, 0.2, 0.5)
    )
    low: float = knob(0.3, "lower end of the range of r", ge=0, le=1, source="paper (its algorithm box says 0.6)")
    high: float = knob(0.6, "upper end of the range of r", ge=0, le=1, source="paper (its algorithm box says 0.9)")

    @model_validator(mode="after")
    def _ordered(self) -> "FocusedDropoutConfig":
        if self.low > self.high:
            raise ValueError(f"low must be at most high = {self.high}, got {self.low}")
        return self

    def build(self, channels: int, depth: float = 1.0) -> FocusedDropout:
        """Return the layer; it does not depend on the number of channels."""
        return FocusedDropout(**self.knobs())
