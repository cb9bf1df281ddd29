"""Dropout, the layer; the declaration says what it does."""

import torch
from torch import Tensor

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
