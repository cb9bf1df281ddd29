"""SpatialDropout: whole feature maps are zeroed with probability p, the others scaled by 1 / (1 - p).

Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv 1411.4280, section 3.2.

As torch.nn.Dropout2d.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class SpatialDropoutConfig(RegularizerConfig):
    """The knobs of SpatialDropout."""

    layer_class = "SpatialDropout"
    strength_knob = "p"
    share_is_proportional = True

    name: Literal["spatial_dropout"] = knob("spatial_dropout", "whole feature maps are dropped")
    p: float = knob(
        0.1, "probability of a feature map to be dropped", ge=0, le=1, source="public code", sweep=(0.05, 0.1, 0.2, 0.3)
    )
