"""Cutout: one square hole per image, its centre uniform over the image, clipped at the border, filled with 0.

DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552. The hole is
cut after normalisation, so that 0 is the mean. Because of the clipping, the mean share that is masked is below
(L / side)²: 19.1 % at L = 16 and 5.5 % at L = 8 on 32×32.

Departs from the public code of the paper in holes of an odd side alone, which are L wide here and L - 1 there.
"""

from typing import ClassVar, Literal

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class CutoutConfig(RegularizerConfig):
    """The knobs of Cutout."""

    layer_class = "Cutout"

    placement: ClassVar[Literal["input"]] = "input"
    strength_knob = "size"

    name: Literal["cutout"] = knob("cutout", "a square hole is cut into each image")
    size: int = knob(
        16,
        "L, side of the hole in pixels",
        ge=1,
        source="paper: 16 on CIFAR-10, 8 on CIFAR-100, 20 on SVHN",
        sweep=(4, 8, 12, 16, 20),
    )

    def strength_range(self) -> tuple[int, int]:
        """Return sides from 1 to one that covers any image, wherever the centre is."""
        return 1, 8192
