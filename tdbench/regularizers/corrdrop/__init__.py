"""CorrDrop (spatial, SCD): regions that correlate little with the others are likelier to be dropped, in all channels.

Zeng et al., "Correlation-based structural dropout for convolutional neural networks", Pattern Recognition 2021, after
public code: the map is average-pooled into cells of block_size; a cell's score is the mean |cosine| of its channel
vector with those of the other cells; a cell is protected with probability softmax(scores); an unprotected one is
dropped with probability p / (share unprotected); the mask is up-sampled and the whole rescaled by numel / kept.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class CorrDropConfig(RegularizerConfig):
    """The knobs of CorrDrop."""

    layer_class = "CorrDrop"
    strength_knob = "p"

    name: Literal["corrdrop"] = knob("corrdrop", "regions that correlate little with the others are dropped")
    schedule: Literal["constant", "linear"] = knob(
        "linear", "how the strength rises: at once, or linearly from 0", source="public code: over 200 forward calls"
    )
    p: float = knob(
        0.2,
        "share of the cells to drop",
        ge=0,
        le=1,
        source="public code: 0.2, with cutout 0.03",
        sweep=(0.03, 0.1, 0.2, 0.3),
    )
    block_size: int = knob(
        5, "side of a cell in feature-map pixels", ge=1, source="public code", aliases=("k",), sweep=(1, 3, 5, 7)
    )
