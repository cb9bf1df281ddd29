"""FocusedDropout: keeps the positions that the strongest channel attends to, and drops the rest in every channel.

Liu et al., "FocusedDropout for Convolutional Neural Network", arXiv 2103.15425: the channel with the largest mean is
the reference; positions where it exceeds r times its maximum are kept, r uniform in a range and drawn per sample; the
same mask serves all channels; nothing is rescaled; a step takes part with a probability of 10 %.

Departs from the public code, which draws r for each position; the paper's text says 0.3 to 0.6, its algorithm box
0.6 to 0.9.
"""

from typing import Literal

from pydantic import model_validator

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class FocusedDropoutConfig(RegularizerConfig):
    """The knobs of FocusedDropout."""

    layer_class = "FocusedDropout"
    strength_knob = "participation"
    share_is_proportional = True
    groups = "last_but_one"

    name: Literal["focused_dropout"] = knob(
        "focused_dropout", "positions off the strongest channel's focus are dropped"
    )
    participation: float = knob(
        0.1, "share of the steps that take part", gt=0, le=1, source="paper", sweep=(0.05, 0.1, 0.2, 0.5)
    )
    low: float = knob(0.3, "lower end of the range of r", ge=0, le=1, source="paper (its algorithm box says 0.6)")
    high: float = knob(0.6, "upper end of the range of r", ge=0, le=1, source="paper (its algorithm box says 0.9)")

    @model_validator(mode="after")
    def _ordered(self) -> "FocusedDropoutConfig":
        if self.low > self.high:
            raise ValueError(f"low must be at most high = {self.high}, got {self.low}")
        return self
