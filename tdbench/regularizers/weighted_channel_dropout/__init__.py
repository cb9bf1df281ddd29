"""WeightedChannelDropout: strong channels are likelier to be kept, and the kept ones are scaled up by their weight.

Hou & Wang, "Weighted Channel Dropout for Regularization of Deep Convolutional Neural Network", AAAI 2019, doi
10.1609/aaai.v33i01.33018425: the score of a channel is its global average; weighted random selection takes the share
`ratio` of the channels, rounded down, with the largest keys u^(1/score), u uniform; each of them is kept with
probability `keep`; what is kept is scaled by the sum of all scores over the sum of the selected ones. Scores must be
positive, as after a ReLU; others are clamped to nearly 0.

The coins that drop a selected channel are not made up for, so that the mean of a map is `keep` times what it is in
evaluation; `rescale: kept` divides by the sum of the kept scores instead, which keeps the mean.

Departs from the paper and its re-implementations: a strength that rises lowers both shares from 1; at least one channel
is selected.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class WeightedChannelDropoutConfig(RegularizerConfig):
    """The knobs of WeightedChannelDropout."""

    layer_class = "WeightedChannelDropout"
    strength_knob = "ratio"
    groups = "last_two"
    revision = 2

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
    rescale: Literal["selected", "kept"] = knob(
        "selected",
        "whose scores the sum of all is divided by to scale what is kept: the selected channels', or the kept ones'",
        source="paper",
        sweep=("selected", "kept"),
    )

    def strength_range(self) -> tuple[float, float]:
        """Return bounds without 0, which is out of range."""
        return 1e-3, 1.0
