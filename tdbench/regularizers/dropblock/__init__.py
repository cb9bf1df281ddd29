"""DropBlock: square blocks around random seeds are zeroed, in each channel independently, and the rest is scaled up.

Ghiasi, Lin & Le, "DropBlock: A regularization method for convolutional networks", arXiv 1810.12890, algorithm 1. Seeds
are Bernoulli(γ) with γ = p / (h·w) · H·W / ((H - h + 1)·(W - w + 1)), only where the block fits into the map; what is
kept is scaled by numel / kept. A block larger than the map is cut to it, h = min(block_size, H); torchvision does the
same, but refuses one that comes out even.

As in torchvision, but for blocks that come out even. Other public code means another strength by the same p: timm lets
seeds fall where the block does not fit and shares one mask over all channels (0.185 dropped in place of 0.1 on a 16×16
map with blocks of 7), miguelvr/dropblock takes γ = p / block_size² (0.076 there).
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class DropBlockConfig(RegularizerConfig):
    """The knobs of DropBlock."""

    layer_class = "DropBlock"
    strength_knob = "p"
    groups = "last_two"

    name: Literal["dropblock"] = knob("dropblock", "square blocks are dropped, in each channel by itself")
    schedule: Literal["constant", "linear"] = knob(
        "linear", "how the strength rises: at once, or linearly from 0", source="paper: linear"
    )
    p: float = knob(0.1, "share of the units to drop", ge=0, le=1, source="paper", sweep=(0.05, 0.1, 0.15, 0.25))
    block_size: int = knob(
        7,
        "side of a block in feature-map pixels",
        ge=1,
        source="paper: 7 on ImageNet",
        aliases=("k",),
        sweep=(1, 3, 5, 7, 9),
    )
