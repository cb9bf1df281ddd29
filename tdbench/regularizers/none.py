"""No regularizer at the sites: the baseline that every other method is compared with."""

from typing import Literal

import torch
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer


class Identity(Regularizer):
    """Passes the feature map on and drops nothing."""

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x` itself and a count of zero."""
        return x, torch.zeros((), dtype=torch.int64, device=x.device)


class NoneConfig(RegularizerConfig):
    """The baseline has no knobs."""

    name: Literal["none"] = knob("none", "the baseline: nothing is dropped")

    def build(self, channels: int) -> Identity:
        """Return the identity, whatever the number of channels."""
        return Identity()
