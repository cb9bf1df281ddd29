"""Dropout: each unit is zeroed with probability p, the others scaled by 1 / (1 - p).

Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014),
jmlr.org/papers/v15/srivastava14a.html.

As torch.nn.Dropout.
"""

from typing import Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class DropoutConfig(RegularizerConfig):
    """The knobs of dropout."""

    layer_class = "Dropout"
    strength_knob = "p"
    share_is_proportional = True

    name: Literal["dropout"] = knob("dropout", "each unit is dropped by itself")
    p: float = knob(
        0.1,
        "probability of a unit to be dropped",
        ge=0,
        le=1,
        source="0.1 to 0.3 in the literature",
        sweep=(0.05, 0.1, 0.2, 0.3),
    )
