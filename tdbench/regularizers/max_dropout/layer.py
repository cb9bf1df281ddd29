"""The MaxDropout layer; the package's docstring describes the method."""

import torch
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate
from tdbench.regularizers.masking import wide_dtype


class MaxDropout(Regularizer):
    """MaxDropout.

    Args:
        p: Length of the top of the value range that is zeroed, in [0, 1]; not a share of the units.
    """

    traits = Traits("units", rescales=False)
    rises_live = True

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x`, of any shape, without its largest values, and their number."""
        values = x.detach().to(wide_dtype(x))
        low, high = values.aminmax()
        share = 1 - self.live_rate
        share = share.to(values.dtype) if isinstance(share, Tensor) else share  # as a number that meets a tensor
        dropped = values > low + share * (high - low)
        return torch.where(dropped, 0.0, x), dropped.count_nonzero()
