"""The Dropout layer; the package's docstring describes the method."""

import torch
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask
from tdbench.regularizers.masking import zero_where


class Dropout(Regularizer):
    """torch's dropout, with a count of the dropped units.

    Args:
        p: Probability of a unit to be zeroed, in [0, 1].
    """

    traits = Traits("units", blind=True)

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x`, of any shape, with units dropped, and their number."""
        rate = self.rate
        if torch.compiler.is_compiling():  # the same, in a form that is not recompiled as the rate rises
            keep = keep_mask(x, x.shape, rate)
            return zero_where(~keep, x * (1 / (1 - rate) if rate < 1 else 1.0)), x.numel() - keep.count_nonzero()
        out, keep = torch.native_dropout(x, rate, True)
        return out, x.numel() - keep.count_nonzero()

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        return self.full_rate
