"""The Dropout layer; the package's docstring describes the method."""

import torch
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask, scale_of
from tdbench.regularizers.masking import scaled, zero_where


class Dropout(Regularizer):
    """torch's dropout, with a count of the dropped units.

    Args:
        p: Probability of a unit to be zeroed, in [0, 1].
    """

    traits = Traits("units", blind=True)
    rises_live = True

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x`, of any shape, with units dropped, and their number."""
        rate = self.live_rate
        if isinstance(rate, Tensor) or torch.compiler.is_compiling():  # the same, of any number and not of this one
            keep = keep_mask(x, x.shape, rate)
            return zero_where(~keep, scaled(x, scale_of(1 - rate))), x.numel() - keep.count_nonzero()
        out, keep = torch.native_dropout(x, rate, True)
        return out, x.numel() - keep.count_nonzero()

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        return self.full_rate
