"""The WeightedChannelDropout layer; the package's docstring describes the method."""

import torch
from torch import Tensor

from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask, live_share_of, share_of

SMALLEST_SCORE = 1e-6


class WeightedChannelDropout(Regularizer):
    """WeightedChannelDropout; a rising schedule lowers both shares from 1.

    Args:
        ratio: Share of the channels that are selected, in (0, 1].
        keep: Probability of a selected channel to be kept, in (0, 1].
        rescale: What is kept is scaled by the sum of all scores over that of the channels `selected`, or `kept`.
    """

    traits = Traits("maps", keeps_mean=False)
    rises_live = True

    def __init__(self, ratio: float = 0.8, keep: float = 0.9, rescale: str = "selected") -> None:
        super().__init__()
        for name, value in (("ratio", ratio), ("keep", keep)):
            check_rate(name, value)
            if value == 0:
                raise ValueError(f"{name} must be greater than 0, got {value}")
        if rescale not in ("selected", "kept"):
            raise ValueError(f"rescale must be selected or kept, got {rescale!r}")
        self.ratio, self.keep, self.rescale = ratio, keep, rescale

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor | int]:
        if self.strength == 0 or self.ratio == self.keep == 1:
            return self.untouched(x)
        strength = self.strength if self.live_strength is None else self.live_strength
        ratio, keep = (1 - (1 - share) * strength for share in (self.ratio, self.keep))
        num_samples, num_channels, height, width = x.shape
        scores = x.detach().mean(dim=(2, 3), dtype=torch.float32).clamp(min=SMALLEST_SCORE)
        # log(u) / score has the order of u^(1/score), and does not underflow.
        keys = torch.rand_like(scores).clamp(min=torch.finfo(scores.dtype).tiny).log() / scores
        nothing = torch.zeros_like(scores, dtype=torch.bool)
        if isinstance(ratio, Tensor):
            is_selected = torch.arange(num_channels, device=x.device) < live_share_of(ratio, num_channels)
            selected = nothing.scatter(1, keys.argsort(dim=1, descending=True), is_selected.expand_as(keys))
        else:
            selected = nothing.scatter(1, keys.topk(share_of(ratio, num_channels), dim=1).indices, True)
        kept = selected & keep_mask(x, (num_samples, num_channels), 1 - keep)
        counted = scores * (kept if self.rescale == "kept" else selected)
        scale = scores.sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True).clamp(min=SMALLEST_SCORE)
        scale = scale.clamp(
            max=min(torch.finfo(dtype).max for dtype in (x.dtype, scale.dtype))
        )  # nearly dead channels would overflow fp16
        out = x * (kept * scale).to(x.dtype)[:, :, None, None]
        return out, (~kept).sum() * height * width

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return 1 - the expected share of channels that are kept."""
        return 1 - share_of(self.ratio, shape[0]) / shape[0] * self.keep
