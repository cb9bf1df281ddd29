"""SpatialDropout: whole feature maps are zeroed with probability p, the others scaled by 1 / (1 - p).

Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280, section 3.2.
"""

from typing import Literal

from torch import Tensor

from tdbench.config import RegularizerConfig, knob
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


class SpatialDropoutConfig(RegularizerConfig):
    """The knobs of SpatialDropout."""

    strength_knob = "p"
    share_is_proportional = True

    name: Literal["spatial_dropout"] = knob("spatial_dropout", "whole feature maps are dropped")
    p: float = knob(
        0.1, "probability of a feature map to be dropped", ge=0, le=1, source="public code", sweep=(0.05, 0.1, 0.2, 0.3)
    )

    def build(self, channels: int, depth: float = 1.0) -> SpatialDropout:
        """Return the layer; it does not depend on the number of channels."""
        return SpatialDropout(**self.knobs())
