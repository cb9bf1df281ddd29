"""DropPath, or stochastic depth: the residual branch of a sample is zeroed, or scaled by 1 / (1 - p).

Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382; scaled in training, identity in evaluation, as
torchvision and timm do (the paper scales in evaluation instead).
"""

from typing import ClassVar, Literal

from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask, scale_kept


class DropPath(Regularizer):
    """torchvision's StochasticDepth by row, which also counts.

    Args:
        p: Probability of a sample's branch to be zeroed, in [0, 1].
    """

    traits = Traits("samples")

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, ...) with whole samples dropped, and the number of units dropped."""
        keep = keep_mask(x, (x.shape[0], *(1,) * (x.dim() - 1)), self.rate)
        return scale_kept(x, keep, 1 - self.rate), (~keep).sum() * x[0].numel()

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return p."""
        return self.full_rate


class DropPathConfig(RegularizerConfig):
    """The knobs of DropPath."""

    placement: ClassVar[Literal["branch"]] = "branch"
    strength_knob = "p"
    share_is_proportional = True

    name: Literal["drop_path"] = knob("drop_path", "the residual branch of a sample is dropped")
    p: float = knob(
        0.2,
        "probability of the last branch to be dropped; it rises linearly with depth",
        ge=0,
        le=1,
        source="0.2 to 0.5 in public code",
        sweep=(0.1, 0.2, 0.3, 0.5),
    )

    def build(self, channels: int, depth: float = 1.0) -> DropPath:
        """Return the layer of a branch at `depth`, with its share of p."""
        return DropPath(self.p * depth)
