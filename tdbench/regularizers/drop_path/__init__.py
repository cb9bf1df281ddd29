"""DropPath, or stochastic depth: the residual branch of a sample is zeroed, or scaled by 1 / (1 - p).

Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382; scaled in training, identity in evaluation, as
torchvision and timm do (the paper scales in evaluation instead).

As in torchvision and timm. A network without residual branches has no place for it.
"""

from typing import Any, ClassVar, Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class DropPathConfig(RegularizerConfig):
    """The knobs of DropPath."""

    layer_class = "DropPath"

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

    def arguments(self, channels: int, depth: float) -> dict[str, Any]:
        """Return p scaled by `depth`, since the rate rises linearly with it."""
        return {"p": self.p * depth}
