"""AttentionDrop: regions of high attention are damped, the more so the stronger the attention.

Ouyang et al., "AttentionDrop for Convolutional Neural Networks", ICME 2019, doi 10.1109/ICME.2019.00233, after public
code: the attention A of a unit is x scaled to [0, 1] over the channels at its position; units with A > β are
candidates, and each is picked with probability p / block_size²; a block around each pick is multiplied by 1 - A; the
whole is rescaled by numel / sum(mask). Only where A = 1 is a unit zeroed, so the realised drop share says less than
for other methods.

No public code of this rule was found. Departs from public variants of it, which do not rescale, divide by the area in
which a block fits, and apply β to the masked map.
"""

from typing import Literal

from tdbench.knobs import Odd, knob
from tdbench.regularizers.config import RegularizerConfig


class AttentionDropConfig(RegularizerConfig):
    """The knobs of AttentionDrop."""

    layer_class = "AttentionDrop"
    strength_knob = "p"

    name: Literal["attentiondrop"] = knob("attentiondrop", "blocks of high attention are damped softly")
    schedule: Literal["constant", "linear"] = knob(
        "linear", "how the strength rises: at once, or linearly from 0", source="public code: linear"
    )
    p: float = knob(0.1, "strength of the picking", ge=0, le=1, source="public code", sweep=(0.05, 0.1, 0.2, 0.4))
    threshold: float = knob(0.8, "β, attention above which a unit is a candidate", ge=0, le=1, source="public code")
    block_size: Odd = knob(
        5,
        "side of the damped block in pixels",
        rule="odd, at least 1",
        source="public code",
        aliases=("k",),
        sweep=(1, 3, 5, 7),
    )
