"""Dropout: each unit is zeroed with probability p, the others scaled by 1 / (1 - p).

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014).
"""

from typing import Literal

import torch
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask


class Dropout(Regularizer):
    """torch's dropout, which also hands out the mask that it drew.

    Args:
        p: Probability of a unit to be zeroed, in [0, 1].
    """

    traits = Traits("units")

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map with units dropped, of any shape, and their number."""
        rate = self.rate
        if torch.compiler.is_compiling():  # the same, in a form that a rising rate does not compile anew
            keep = keep_mask(x, x.shape, rate)
            return torch.where(keep, x / (1 - rate) if rate < 1 else x, 0.0), x.numel() - keep.count_nonzero()
        out, keep = torch.native_dropout(x, rate, True)
        return out, x.numel() - keep.count_nonzero()

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return p."""
        return self.full_rate


class DropoutConfig(RegularizerConfig):
    """The knobs of dropout."""

    strength_knob = "p"
    share_is_proportional = True

    name: Literal["dropout"] = knob("dropout", "each unit is dropped by itself")
    p: float = knob(
        0.1,
        "probability of a unit to be dropped",
        ge=0,
        le=1,
        source="0.1 to 0.3 in the literature",
        sweep=(0.05, 0.1, 0.2, 0.3),
    )

    def build(self, channels: int, depth: float = 1.0) -> Dropout:
        """Return the layer; it does not depend on the number of channels."""
        return Dropout(**self.knobs())
