"""MaxDropout: the largest values of the whole tensor are zeroed, without rescaling.

do Santos et al., "MaxDropout: Deep Neural Network Regularization Based on Maximum Output Values", arXiv 2007.13723:
the tensor is scaled to [0, 1] by its minimum and maximum, and what lies above 1 - p becomes 0. A constant tensor has no
largest values, and is left alone.
"""

from typing import Literal

import torch
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers._windows import wide_dtype
from tdbench.regularizers.base import Regularizer, Traits, check_rate


class MaxDropout(Regularizer):
    """MaxDropout.

    Args:
        p: Length of the top of the value range that is zeroed, in [0, 1]; no share of the units.
    """

    traits = Traits("units", rescales=False)

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        check_rate("p", p)
        self.full_rate = p

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a tensor of any shape without its largest values, and their number."""
        values = x.detach().to(wide_dtype(x))
        low, high = values.aminmax()
        dropped = values > low + (1 - self.rate) * (high - low)
        return torch.where(dropped, 0.0, x), dropped.count_nonzero()


class MaxDropoutConfig(RegularizerConfig):
    """The knobs of MaxDropout."""

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

    def build(self, channels: int, depth: float = 1.0) -> MaxDropout:
        """Return the layer; it does not depend on the number of channels."""
        return MaxDropout(**self.knobs())
