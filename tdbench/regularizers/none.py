"""No regularizer at the sites: the baseline that every other method is compared with."""

from typing import Literal

from pydantic import field_validator
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer


class Identity(Regularizer):
    """Passes the feature map on and drops nothing."""

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x` itself and a count of zero."""
        return self.untouched(x)

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return 0."""
        return 0.0


class NoneConfig(RegularizerConfig):
    """The baseline has no knobs."""

    name: Literal["none"] = knob("none", "the baseline: nothing is dropped")

    @field_validator("match", mode="after")
    @classmethod
    def _nothing_to_match(cls, value: float | None) -> None:
        """Drop nothing whatever the others are matched to, so that one command serves the baseline too."""

    def build(self, channels: int, depth: float = 1.0) -> Identity:
        """Return the identity, whatever the number of channels."""
        return Identity()
