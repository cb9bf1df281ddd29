"""The TargetDrop2d layer; the package's docstring describes the method."""

from typing import get_args

import torch
from torch import Tensor, nn

from tdbench.regularizers.base import Regularizer, Traits, has_hooks, share_of
from tdbench.regularizers.targetdrop import Attention, Region, Rescale
from tdbench.regularizers.targetdrop.fused import Knobs, fused_form
from tdbench.regularizers.targetdrop.targets import (
    channel_means,
    choose_windows,
    draws,
    excite,
    fan_out_normal,
    uniform,
)
from tdbench.regularizers.targetdrop.windows import (
    centres_by_channel,
    drop_windows,
    every_channel,
    mean_extent,
    peaks,
    scales,
    straight_through,
)

NARROW_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def target_drop2d(
    x: Tensor,
    scores: Tensor,
    drop_ratio: float = 0.15,
    block_size: int = 5,
    target_fraction: float | None = None,
    *,
    region: Region = "peak",
    rescale: Rescale = "channel",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Drop the target regions of a feature map; there is no evaluation mode.

    Args:
        x: Feature map (N, C, H, W), floating point, in any memory format, which is kept.
        scores: Attention (N, C), larger is more attended; logits suffice. No gradient flows into it.
        drop_ratio: γ in [0, 1]; K = floor(γ·C) channels of each sample are dropped in, at least one when γ > 0.
        block_size: k, the odd side of the dropped window in pixels; it is clipped at the border.
        target_fraction: ρ in [γ, 1]; the K channels are drawn from the top ρ·C. None: ρ = γ, nothing is drawn.
        region: `peak` centres the window on the channel's maximum, `random` anywhere in the map.
        rescale: `channel` scales each dropped channel by H·W / kept, `layer` the whole sample by C·H·W / kept,
            `none` nothing.
        generator: Source of the random numbers, on any device; None: torch's global one of the device of `x`.

    Returns:
        A new tensor like `x`, or `x` itself when γ = 0.

    Raises:
        ValueError: A knob is out of range, or a shape or type does not fit.
    """
    check_knobs(drop_ratio, block_size, target_fraction, region=region, rescale=rescale)
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor (N, C, H, W), got {x.dtype} {tuple(x.shape)}")
    if scores.shape != x.shape[:2]:
        raise ValueError(f"scores must be (N, C) = {tuple(x.shape[:2])}, got {tuple(scores.shape)}")
    if drop_ratio == 0 or x.numel() == 0:
        return x
    scores = scores.detach()
    is_drawn = draws(x.shape[1], drop_ratio, target_fraction, region)
    fused = fused_form(x, is_deterministic=not is_drawn and scores.dtype in NARROW_DTYPES)
    if fused is not None:
        knobs = Knobs(drop_ratio, block_size, target_fraction, region, rescale, generator)
        return fused(x, scores, None, knobs, False, None)[0]
    windows = choose_windows(x.detach(), scores, drop_ratio, block_size, target_fraction, region, generator)
    return drop_windows(x, windows, scales(x, windows, rescale))


class TargetDrop2d(Regularizer):
    """TargetDrop for a feature map (N, C, H, W): drops in training mode, is the identity in evaluation.

    With `attention="se"`, the paper taken literally, the hard choice of channels gives W1 and W2 no gradient, so they
    stay at their initial values for the whole training and are buffers: no optimizer state, no weight decay.
    `se_ste` makes them parameters that a straight-through estimate trains.

    Args:
        channels: C of the feature map.
        drop_ratio, block_size, target_fraction, region, rescale: As in `target_drop2d`.
        reduction: r; the hidden width of the attention is max(C // r, 4).
        attention: `se` | `se_ste` | `gap` (rank by the channel mean alone) | `random` (rank at random).
        generator: Source of the initial W1 and W2 and of all random numbers. None: torch's global ones, which is
            also what a module compiled with `fullgraph=True` needs where it draws (torch.compile takes no generator).

    Attributes:
        fc1: W1, (hidden, C), or None where the attention has no weights.
        fc2: W2, (C, hidden), likewise.

    Raises:
        ValueError: A knob is out of range.
    """

    traits = Traits("blocks", share_varies=True)
    rises_live = True

    fc1: Tensor | None
    fc2: Tensor | None

    def __init__(
        self,
        channels: int,
        drop_ratio: float = 0.15,
        block_size: int = 5,
        target_fraction: float | None = None,
        *,
        reduction: int = 16,
        attention: Attention = "se",
        region: Region = "peak",
        rescale: Rescale = "channel",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_knobs(
            drop_ratio,
            block_size,
            target_fraction,
            reduction,
            attention=attention,
            region=region,
            rescale=rescale,
        )
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.channels, self.reduction, self.attention = channels, reduction, attention
        self.drop_ratio, self.block_size, self.target_fraction = drop_ratio, block_size, target_fraction
        self.region, self.rescale, self.generator = region, rescale, generator
        self.traits = Traits("blocks", rescales=rescale != "none", share_varies=True, holds_peak=region == "peak")
        self.rises_live = region == "peak" and target_fraction is None
        fc1 = fc2 = None
        if attention in ("se", "se_ste"):
            hidden = max(channels // reduction, 4)
            fc1, fc2 = (fan_out_normal(shape, generator) for shape in ((hidden, channels), (channels, hidden)))
        trained = attention == "se_ste"
        for name, weight in (("fc1", fc1), ("fc2", fc2)):
            if trained and weight is not None:
                self.register_parameter(name, nn.Parameter(weight))
            else:
                self.register_buffer(name, weight)

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor | int | None]:
        if x.dim() != 4 or x.shape[1] != self.channels or not x.is_floating_point():
            rule = f"a floating-point tensor (N, {self.channels}, H, W)"
            raise ValueError(f"x must be {rule}, got {x.dtype} {tuple(x.shape)}")
        drop_ratio = self.drop_ratio * self.strength
        if drop_ratio == 0 or x.numel() == 0:
            return self.untouched(x)
        fused = self._drop_by_kernels(x, drop_ratio)
        if fused is not None:
            return fused
        if self.live_strength is not None:
            self.rises_live = False  # here K is a size, which a recorded step cannot change
        scores = self.scores(x.detach())
        knobs = drop_ratio, self.block_size, self.target_fraction, self.region, self.generator
        windows = choose_windows(x.detach(), scores.detach(), *knobs)
        scale = scales(x, windows, self.rescale)
        out = drop_windows(x, windows, scale)
        if scores.requires_grad:
            centres = centres_by_channel(x, windows), peaks(x.detach(), every_channel(x))
            out = straight_through(out, x.detach(), scores.sigmoid(), *centres, windows.radius, scale)
        return out, windows.area.sum()

    def after_relu(self, x: Tensor) -> Tensor:
        """Return the layer's output for relu(x), fused with the ReLU where kernels support it.

        Then, as for a ReLU's, the result must not be changed in place before backward.
        """
        drop_ratio = self.drop_ratio * self.strength
        acts = self.training and drop_ratio > 0 and not has_hooks(self)  # hooks must get relu(x)
        fits = x.dim() == 4 and x.shape[1] == self.channels and x.numel() > 0
        compiler_fuses = torch.compiler.is_compiling() and x.device.type != "cpu"  # the ReLU with what is around it
        fused = self._drop_by_kernels(x, drop_ratio, relu=True) if acts and fits and not compiler_fuses else None
        if fused is None:
            return super().after_relu(x)
        out, num_dropped = fused
        self.count(num_dropped, x)
        return out

    def scores(self, x: Tensor) -> Tensor:
        """Return the attention logits (N, C) of a feature map; their sigmoid, the paper's M, saturates in fp32."""
        scores = self._random_scores(x)
        return excite(channel_means(x), self._weights()) if scores is None else scores

    def _random_scores(self, x: Tensor) -> Tensor | None:
        """Return the scores (N, C) of the attention that needs no channel means; None: it needs them."""
        return uniform(x.shape[:2], self.generator, x.device) if self.attention == "random" else None

    def _weights(self) -> tuple[Tensor, Tensor] | None:
        """Return the weights that map channel means to scores; None: the attention has none."""
        fc1, fc2 = self.fc1, self.fc2
        return None if fc1 is None or fc2 is None else (fc1, fc2)

    def _drop_by_kernels(self, x: Tensor, drop_ratio: float, relu: bool = False) -> tuple[Tensor, Tensor | None] | None:
        """Return the result of compiled kernels, or None where they do not apply; a subclass may differ from them.

        The count is None where the kernels have added it to the meter. With `relu` the weights must not be trained.
        """
        weights = self._weights()
        is_trained = weights is not None and (weights[0].requires_grad or weights[1].requires_grad)
        is_drawn = draws(self.channels, drop_ratio, self.target_fraction, self.region)
        fused = fused_form(x, is_deterministic=not (is_drawn or is_trained))
        if fused is None or (relu and is_trained) or type(self) is not TargetDrop2d:
            return None
        live_ratio = None if self.live_strength is None else self.drop_ratio * self.live_strength
        knobs = Knobs(
            *(drop_ratio, self.block_size, self.target_fraction, self.region, self.rescale, self.generator),
            live_ratio=live_ratio,
        )
        return fused(x, self._random_scores(x), weights, knobs, relu, self.meter)

    def nominal_share(self, shape: tuple[int, int, int]) -> float:
        """Return K / C times the mean area of a window whose centre is uniform over the map."""
        if self.drop_ratio == 0:
            return 0.0
        mean_extents = [mean_extent(self.block_size, length) / length for length in shape[1:]]
        return share_of(self.drop_ratio, shape[0]) / shape[0] * mean_extents[0] * mean_extents[1]

    def block(self) -> int:
        return self.block_size

    def num_targets(self, channels: int) -> int | None:
        if self.attention == "random":  # ranked anew by each call
            return None
        num_dropped = share_of(self.drop_ratio, channels)
        return max(num_dropped, share_of(self.target_fraction or self.drop_ratio, channels))

    def remarks(self) -> list[str]:
        """Say that the paper's attention is not trained."""
        if self.attention != "se":
            return []
        return [
            "the attention weights receive no gradient and stay at their initial values (attention=se_ste trains them)"
        ]

    def extra_repr(self) -> str:
        knobs = ("drop_ratio", "block_size", "target_fraction", "reduction", "attention", "region", "rescale")
        return ", ".join([str(self.channels), *(f"{knob}={getattr(self, knob)!r}" for knob in knobs)])


def check_knobs(
    drop_ratio: float, block_size: int, target_fraction: float | None, reduction: int = 16, **choices: str
) -> None:
    """Raise ValueError for the first knob that is out of range."""
    if not 0 <= drop_ratio <= 1:
        raise ValueError(f"drop_ratio must be between 0 and 1, got {drop_ratio}")
    if not isinstance(block_size, int) or block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size must be odd and at least 1, got {block_size}")
    if target_fraction is not None and not drop_ratio <= target_fraction <= 1:
        raise ValueError(f"target_fraction must be between drop_ratio = {drop_ratio} and 1, got {target_fraction}")
    if reduction < 1:
        raise ValueError(f"reduction must be at least 1, got {reduction}")
    for name, value in choices.items():
        known = get_args({"attention": Attention, "region": Region, "rescale": Rescale}[name])
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
