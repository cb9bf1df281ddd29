"""The SpatialDropout layer; the package's docstring describes the method."""

from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask, scale_kept


class SpatialDropout(Regularizer):
    """torch's Dropout2d, with a count of the dropped units.

    Args:
        p: Probability of a map (sample, channel) to be zeroed, in [0, 1].
    """

    traits = Traits("maps", blind=True)
    rises_live = True

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keep = keep_mask(x, (*x.shape[:2], 1, 1), self.live_rate)
        return scale_kept(x, keep, 1 - self.live_rate), (~keep).sum() * x.shape[2] * x.shape[3]

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        return self.full_rate
