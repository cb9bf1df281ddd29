"""MaxDropout: the largest values of the whole tensor are zeroed, without rescaling.

do Santos et al., "MaxDropout: Deep Neural Network Regularization Based on Maximum Output Values", arXiv 2007.13723:
the tensor is scaled to [0, 1] by its minimum and maximum, and what lies above 1 - p becomes 0. A constant tensor has no
largest values, and is left alone.

As in the public code, but that there a constant tensor becomes 0/0.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class MaxDropoutConfig(RegularizerConfig):
    """The knobs of MaxDropout."""

    layer_class = "MaxDropout"
    strength_knob = "p"

    name: Literal["max_dropout"] = knob("max_dropout", "the largest values of the tensor are dropped")
    p: float = knob(
        0.3,
        "length of the top of the value range that is dropped",
        ge=0,
        le=1,
        source="paper's code",
        sweep=(0.1, 0.2, 0.3, 0.4),
    )
