"""SpatialDropout, the layer; the declaration says what it does."""

from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask, scale_kept


class SpatialDropout(Regularizer):
    """torch's Dropout2d, which also counts.

    Args:
        p: Probability of a map (sample, channel) to be zeroed, in [0, 1].
    """

    traits = Traits("maps")

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) with maps dropped, and the number of units dropped."""
        keep = keep_mask(x, (*x.shape[:2], 1, 1), self.rate)
        return scale_kept(x, keep, 1 - self.rate), (~keep).sum() * x.shape[2] * x.shape[3]

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return p."""
        return self.full_rate
