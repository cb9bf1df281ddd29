"""No regularizer at the sites: the baseline that every other method is compared with."""

from typing import Literal

from pydantic import field_validator

from tdbench.knobs import knob
from tdbench.regularizers.config import RegularizerConfig


class NoneConfig(RegularizerConfig):
    """The baseline has no knobs."""

    layer_class = "Identity"

    name: Literal["none"] = knob("none", "the baseline: nothing is dropped")

    @field_validator("match", mode="after")
    @classmethod
    def _nothing_to_match(cls, value: float | None) -> None:
        """Ignore `match`, so that one command can match the other methods and run the baseline too."""
