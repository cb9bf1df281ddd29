"""WeightedChannelDropout: strong channels are likelier to be kept, and the kept ones are scaled up by their weight.

Hou & Wang, "Weighted Channel Dropout for Regularization of Deep Convolutional Neural Network", AAAI 2019: the score
of a channel is its global average; weighted random selection takes the share `ratio` of the channels with the largest
keys u^(1/score), u uniform; each of them is kept with probability `keep`; what is kept is scaled by the sum of all
scores over the sum of the kept ones. Scores must be positive, as after a ReLU; others are clamped to nearly 0.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class WeightedChannelDropoutConfig(RegularizerConfig):
    """The knobs of WeightedChannelDropout."""

    layer_class = "WeightedChannelDropout"
    strength_knob = "ratio"

    name: Literal["weighted_channel_dropout"] = knob(
        "weighted_channel_dropout", "channels are dropped, strong ones less often"
    )
    ratio: float = knob(
        0.8,
        "share of the channels selected by their weight",
        gt=0,
        le=1,
        source="paper: 0.8 to 0.9",
        sweep=(0.7, 0.8, 0.9),
    )
    keep: float = knob(
        0.9, "probability of a selected channel to be kept", gt=0, le=1, source="public code", sweep=(0.8, 0.9, 1.0)
    )

    def strength_range(self) -> tuple[float, float]:
        """Return bounds without 0, which is out of range."""
        return 1e-3, 1.0
