"""TargetDrop: attention picks target channels, and the k×k region around each one's peak is dropped.

Zhu & Zhao, "TargetDrop: A Targeted Regularization Method for Convolutional Neural Networks", arXiv 2010.10716.
Squeeze and excite: v_c = mean of U_c over H×W, M = sigmoid(W2 · relu(W1 · v)). The K = floor(γ·C) channels with the
largest M are targets; around the maximum of each, a k×k window clipped at the border is zeroed (S = 0), and the
rest of the map is scaled by λ = H·W / sum(S). What the paper leaves open is marked on the line that decides it.

No code of the authors was found. Departs from a third-party implementation where that fails: a single sample, no
channel to drop, maps smaller than the window (which is clipped), a window that covers the map (zeros, where 0/0 came).
"""

from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from tdbench.errors import OutOfRange
from tdbench.knobs import Odd, knob
from tdbench.regularizers.config import RegularizerConfig

Attention = Literal["se", "se_ste", "gap", "random"]
Region = Literal["peak", "random"]
Rescale = Literal["channel", "layer", "none"]


class TargetDropConfig(RegularizerConfig):
    """The knobs of TargetDrop."""

    layer_class = "TargetDrop2d"
    strength_knob = "drop_ratio"

    name: Literal["targetdrop"] = knob(
        "targetdrop", "attention picks channels, and the region round each peak is dropped"
    )
    drop_ratio: float = knob(
        0.15,
        "γ, share of the channels whose target region is dropped",
        ge=0,
        le=1,
        rule="0 ≤ γ ≤ 1",
        sweep=(0.05, 0.1, 0.15, 0.2, 0.3, 0.5),
        source="third-party implementation, labelled there as the paper's",
        aliases=("gamma", "γ"),
    )
    block_size: Odd = knob(
        5,
        "k, side of the dropped window in feature-map pixels",
        rule="odd, k ≥ 1",
        sweep=(1, 3, 5, 7, 9),
        source="third-party implementation, labelled there as the paper's",
        aliases=("k",),
    )
    target_fraction: float | None = knob(
        None,
        "ρ, share of the channels that count as targets, of which the dropped ones are drawn; null: ρ = γ",
        le=1,
        rule="γ ≤ ρ ≤ 1",
        sweep=(0.15, 0.25, 0.5, 0.75, 1.0),
        source="ρ = γ is the paper",
        aliases=("target_channel_fraction", "rho", "ρ"),
    )
    reduction: int = knob(
        16,
        "r, reduction of the attention's hidden layer",
        ge=1,
        rule="r ≥ 1",
        source="paper",
        needs={"attention": ("se", "se_ste")},
    )
    attention: Attention = knob("se", "what ranks the channels", source="paper: se")
    region: Region = knob("peak", "where the window is centred", source="paper: peak")
    rescale: Rescale = knob("channel", "what is scaled up for what was dropped", source="third-party implementation")

    @field_validator("target_fraction")
    @classmethod
    def _one_name_for_one_thing(cls, value: float | None, info: ValidationInfo) -> float | None:
        drop_ratio = info.data.get("drop_ratio")
        if value is not None and drop_ratio is not None and value < drop_ratio:
            raise OutOfRange(f"between drop_ratio = {drop_ratio} and 1", value)
        return None if value == drop_ratio else value

    def arguments(self, channels: int, depth: float) -> dict[str, Any]:
        """Return the number of channels, which the attention needs, and the knobs."""
        return {"channels": channels, **self.knobs()}

    def strength_range(self) -> tuple[float, float]:
        """Return γ from 0 to ρ."""
        return 0.0, 1.0 if self.target_fraction is None else self.target_fraction
