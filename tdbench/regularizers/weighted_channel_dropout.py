"""WeightedChannelDropout: strong channels are likelier to be kept, and the kept ones are scaled up by their weight.

Hou & Wang, "Weighted Channel Dropout for Regularization of Deep Convolutional Neural Network", AAAI 2019: the score
of a channel is its global average; weighted random selection takes the share `ratio` of the channels with the largest
keys u^(1/score), u uniform; each of them is kept with probability `keep`; what is kept is scaled by the sum of all
scores over the sum of the kept ones. Scores must be positive, as after a ReLU; others count as next to nothing.
"""

from typing import Literal

import torch
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask

SMALLEST_SCORE = 1e-6


class WeightedChannelDropout(Regularizer):
    """WeightedChannelDropout; a rising schedule lowers both shares from 1.

    Args:
        ratio: Share of the channels that are selected, in (0, 1].
        keep: Probability of a selected channel to be kept, in (0, 1].
    """

    traits = Traits("maps")

    def __init__(self, ratio: float = 0.8, keep: float = 0.9) -> None:
        super().__init__()
        for name, value in (("ratio", ratio), ("keep", keep)):
            check_rate(name, value)
            if value == 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        self.ratio, self.keep = ratio, keep

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) with channels dropped, and the number of units dropped."""
        ratio, keep = (1 - (1 - share) * self.strength for share in (self.ratio, self.keep))
        if ratio == keep == 1:
            return self.untouched(x)
        num_samples, num_channels, height, width = x.shape
        scores = x.detach().mean(dim=(2, 3), dtype=torch.float32).clamp(min=SMALLEST_SCORE)
        # log(u) / score has the order of u^(1/score), and does not underflow.
        keys = torch.rand_like(scores).clamp(min=torch.finfo(scores.dtype).tiny).log() / scores
        num_selected = max(1, round(ratio * num_channels))
        selected = torch.zeros_like(scores, dtype=torch.bool)
        selected = selected.scatter(1, keys.topk(num_selected, dim=1).indices, True)
        kept = selected & keep_mask(x, (num_samples, num_channels), 1 - keep)
        scale = scores.sum(dim=1, keepdim=True) / (scores * kept).sum(dim=1, keepdim=True).clamp(min=SMALLEST_SCORE)
        scale = scale.clamp(
            max=min(torch.finfo(dtype).max for dtype in (x.dtype, scale.dtype))
        )  # of channels that are all but dead, in fp16
        out = x * (kept * scale).to(x.dtype)[:, :, None, None]
        return out, (~kept).sum() * height * width

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return 1 - the share of channels that are kept."""
        return 1 - max(1, round(self.ratio * shape[0])) / shape[0] * self.keep


class WeightedChannelDropoutConfig(RegularizerConfig):
    """The knobs of WeightedChannelDropout."""

    strength_knob = "ratio"

    name: Literal["weighted_channel_dropout"] = knob(
        "weighted_channel_dropout", "channels are dropped, strong ones less often"
    )
    ratio: float = knob(
        0.8,
        "share of the channels selected by their weight",
        gt=0,
        le=1,
        source="paper: 0.8 to 0.9",
        sweep=(0.7, 0.8, 0.9),
    )
    keep: float = knob(
        0.9, "probability of a selected channel to be kept", gt=0, le=1, source="public code", sweep=(0.8, 0.9, 1.0)
    )

    def strength_range(self) -> tuple[float, float]:
        """Return shares of the channels above 0, which is none."""
        return 1e-3, 1.0

    def build(self, channels: int, depth: float = 1.0) -> WeightedChannelDropout:
        """Return the layer; it does not depend on the number of channels."""
        return WeightedChannelDropout(**self.knobs())
