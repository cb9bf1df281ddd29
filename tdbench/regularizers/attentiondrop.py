"""AttentionDrop: regions of high attention are damped softly, the stronger the attention.

Ouyang et al., "AttentionDrop for Convolutional Neural Networks", ICME 2019, after public code: the attention A of a
unit is x scaled to [0, 1] over the channels at its position; units with A > β are candidates, and each is picked with
probability p / block_size²; a block round each pick is multiplied by 1 - A; the whole is rescaled by numel / sum(mask).
Only where A = 1 is a unit zeroed, so the realised share says less here than elsewhere.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from tdbench.config import RegularizerConfig, knob
from tdbench.regularizers.base import Regularizer, Traits, check_rate, keep_mask


class AttentionDrop(Regularizer):
    """AttentionDrop.

    Args:
        p: Strength of the picking, in [0, 1].
        threshold: β, the attention above which a unit is a candidate, in [0, 1].
        block_size: Odd side of the damped block in pixels.
    """

    traits = Traits("units")

    def __init__(self, p: float = 0.1, threshold: float = 0.8, block_size: int = 5) -> None:
        super().__init__()
        check_rate("p", p)
        check_rate("threshold", threshold)
        check_block_size(block_size)
        self.full_rate, self.threshold, self.block_size = p, threshold, block_size

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, H, W) with attended blocks damped, and the number of units damped to zero."""
        detached = x.detach().float()
        low, high = detached.amin(dim=1, keepdim=True), detached.amax(dim=1, keepdim=True)
        attention = (detached - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        picked = (attention > self.threshold) & ~keep_mask(x, x.shape, self.rate / self.block_size**2)
        blocks = F.max_pool2d(picked.float(), self.block_size, stride=1, padding=self.block_size // 2)
        mask = 1 - attention * blocks
        scale = mask.numel() / mask.sum().clamp(min=1)
        return x * (mask * scale).to(x.dtype), (mask == 0).sum()

    def block(self) -> int:
        """Return the side of the damped block."""
        return self.block_size


def check_block_size(block_size: int) -> None:
    """Raise ValueError unless a block has a middle."""
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size must be odd and at least 1, got {block_size}")


class AttentionDropConfig(RegularizerConfig):
    """The knobs of AttentionDrop."""

    strength_knob = "p"

    name: Literal["attentiondrop"] = knob("attentiondrop", "blocks of high attention are damped softly")
    schedule: Literal["constant", "linear"] = knob(
        "linear", "how the strength rises: at once, or linearly from 0", source="public code: linear"
    )
    p: float = knob(0.1, "strength of the picking", ge=0, le=1, source="public code", sweep=(0.05, 0.1, 0.2, 0.4))
    threshold: float = knob(0.8, "β, attention above which a unit is a candidate", ge=0, le=1, source="public code")
    block_size: int = knob(
        5,
        "side of the damped block in pixels",
        ge=1,
        rule="odd, at least 1",
        source="public code",
        aliases=("k",),
        sweep=(1, 3, 5, 7),
    )

    @model_validator(mode="after")
    def _odd(self) -> "AttentionDropConfig":
        check_block_size(self.block_size)
        return self

    def build(self, channels: int, depth: float = 1.0) -> AttentionDrop:
        """Return the layer; it does not depend on the number of channels."""
        return AttentionDrop(**self.knobs())
