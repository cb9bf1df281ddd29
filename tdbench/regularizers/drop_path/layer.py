"""The DropPath layer; the package's docstring describes the method."""

from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask, scale_kept


class DropPath(Regularizer):
    """torchvision's StochasticDepth in mode `row`, with a count of the dropped units.

    Args:
        p: Probability of a sample's branch to be zeroed, in [0, 1].
    """

    traits = Traits("samples", blind=True)
    rises_live = True

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x` (N, ...), of any shape, with whole samples dropped, and the number of units dropped."""
        keep = keep_mask(x, (x.shape[0], *(1,) * (x.dim() - 1)), self.live_rate)
        return scale_kept(x, keep, 1 - self.live_rate), (~keep).sum() * x[0].numel()

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        return self.full_rate
