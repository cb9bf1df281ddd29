"""CorrDrop (spatial, SCD): regions that correlate little with the others are likelier to be dropped, in all channels.

Zeng et al., "Correlation-based structural dropout for convolutional neural networks", Pattern Recognition 2021, after
its public code (github.com/Sandy-Zeng/CorrDrop): the map is zero-padded to whole cells of block_size and averaged over
each; a cell's score is the sum of the |cosines| of its channel vector with those of the others, over the number of
cells; a cell is protected with probability softmax(scores); an unprotected one is dropped with probability γ / (share
unprotected in the batch), γ = p / block_size² · H·W / (number of cells); the mask is spread over the map, cut in its
middle, and all is scaled by numel / kept.

So p is not the share of units dropped: on a 16×16 map with cells of 5 that is 0.64 p, with cells that divide the map
it is p. `match` sets the share itself.

Departs from the public code: a map of one cell can be dropped, where that code always protects it and so never acts;
a cell too large for the map is cut in that layer alone, where that code cuts it for good; maps need not be square; the
strength rises over the whole training, where that code's rises over 200 forward calls.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class CorrDropConfig(RegularizerConfig):
    """The knobs of CorrDrop."""

    layer_class = "CorrDrop"
    strength_knob = "p"
    groups = "last_two"
    revision = 2

    name: Literal["corrdrop"] = knob("corrdrop", "regions that correlate little with the others are dropped")
    schedule: Literal["constant", "linear"] = knob(
        "linear", "how the strength rises: at once, or linearly from 0", source="public code: over 200 forward calls"
    )
    p: float = knob(
        0.2,
        "share of the units to drop where cells divide the map; where they do not, that is less",
        ge=0,
        le=1,
        source="public code: 0.2, with cutout 0.03",
        sweep=(0.03, 0.1, 0.2, 0.3),
    )
    block_size: int = knob(
        5, "side of a cell in feature-map pixels", ge=1, source="public code", aliases=("k",), sweep=(1, 3, 5, 7)
    )
