"""The base class of every layer: it acts in training mode only, and can count the units that it drops."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropMeter:
    """Counts dropped units on the device, without host synchronisation in a step; it follows a network to another."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)

    def on(self, device: torch.device) -> Tensor:
        """Return the counts, int64 (2,) of dropped units and of all, on a device: what a kernel adds to by itself."""
        if self.counts.device != device:
            self.counts = self.counts.to(device)
        return self.counts

    def add(self, num_dropped: Tensor | int, num_units: int) -> None:
        """Add one batch: `num_dropped` of its `num_units` units were set to zero by the layer's mask."""
        if isinstance(num_dropped, Tensor):
            self.on(num_dropped.device)[0] += num_dropped
        elif num_dropped:
            self.counts[0] += num_dropped
        self.counts[1] += num_units

    def read(self, reset: bool = False) -> tuple[int, int]:
        """Return (dropped units, units) since the last reset; synchronises with the device."""
        dropped, units = self.counts.tolist()
        if reset:
            self.counts.zero_()
        return dropped, units


@dataclass(frozen=True)
class Traits:
    """What a method claims about its mask; `tdbench audit` checks the layer against it.

    Attributes:
        drops: The smallest part that is dropped whole.
        shared: One mask serves all channels of a sample.
        rescales: Kept units are scaled up to make up for dropped ones.
        share_varies: The dropped share depends on the data; `nominal_share` assumes evenly distributed data.
        keeps_mean: What rescales makes up for the dropped units in the mean: kept scale × (1 − share) is 1.
        blind: Which units are dropped does not depend on the data, so that they lie where a new layer's would.
        holds_peak: Of each map that loses units, the largest is among them.
    """

    drops: Literal["units", "blocks", "maps", "samples"]
    shared: bool = False
    rescales: bool = True
    share_varies: bool = False
    keeps_mean: bool = True
    blind: bool = False
    holds_peak: bool = False


class Regularizer(nn.Module):
    """A layer that is the identity in evaluation and calls `drop` in training.

    Attributes:
        meter: Counts the dropped units of every training forward; None: no counting.
        traits: What the method claims about its mask; None: nothing.
        full_rate: Full value of the knob that a rising schedule raises from 0; 1 where the method names none.
        strength: Current factor of the schedule, in [0, 1].
        live_strength: The same as a tensor on the device (0-dim, fp64), which a recorded or compiled step reads anew
            each time it is done; None: `strength` serves. Only for a layer that `rises_live`.
        rises_live: `drop` reads `live_strength`, and nothing else that a schedule changes.
        counts_exactly: The number of dropped units that `drop` returns is exact, not an estimate.
    """

    traits: Traits | None = None
    meter: DropMeter | None = None
    full_rate: float = 1.0
    strength: float = 1.0
    live_strength: Tensor | None = None
    rises_live: bool = False
    counts_exactly: bool = True

    @property
    def rate(self) -> float:
        """`full_rate` times `strength`; at 0 the layer is the identity, and `drop` is not called."""
        return self.full_rate * self.strength

    def set_strength(self, strength: float) -> None:
        """Set the factor of the schedule."""
        self.strength = strength
        if self.live_strength is not None:
            self.live_strength.fill_(strength)

    @property
    def live_rate(self) -> float | Tensor:
        """`rate`; where the strength is a tensor, the same number as one (0-dim, fp64), unknown to the host."""
        return self.rate if self.live_strength is None else self.full_rate * self.live_strength

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself in evaluation mode, the regularized feature map in training mode."""
        if not self.training:
            return x
        is_off = self.rate == 0 or x.numel() == 0  # a step is recorded when a strength that rises has left 0
        out, num_dropped = self.untouched(x) if is_off else self.drop(x)
        self.count(num_dropped, x)
        return out

    def after_relu(self, x: Tensor) -> Tensor:
        """Return the layer's output for relu(x); a method may fuse the two."""
        return self(F.relu(x))

    def nominal_share(self, shape: tuple[int, int, int]) -> float | None:
        """Return the share of units that the knobs aim to drop at full strength in a (C, H, W) map; None: unknown."""
        return None

    def block(self) -> int | None:
        """Return the side in pixels of the blocks that the knobs ask for; None: no blocks."""
        return None

    def block_in(self, shape: tuple[int, int, int]) -> tuple[int, int] | None:
        """Return (height, width) of those blocks in a (C, H, W) map: cut to it where they are larger."""
        block = self.block()
        return None if block is None else (min(block, shape[1]), min(block, shape[2]))

    def remarks(self) -> list[str]:
        """Return remarks on this layer for the user, in sentences."""
        return []

    def scores(self, x: Tensor) -> Tensor | None:
        """Return the attention (N, C) that ranks the channels of `x`, larger is more attended; None: no ranking."""
        return None

    def num_targets(self, channels: int) -> int | None:
        """Return how many of a sample's channels, those that rank highest by `scores`, may lose units; None: all."""
        return None

    def count(self, num_dropped: Tensor | int | None, x: Tensor) -> None:
        """Tell the meter, if there is one, what `drop` has said of `x`."""
        if self.meter is not None and num_dropped is not None:
            self.meter.add(num_dropped, x.numel())

    def untouched(self, x: Tensor) -> tuple[Tensor, int]:
        """Return `x` itself and a count of zero, as `drop` does where there is nothing to drop."""
        return x, 0

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor | int | None]:
        """Return the regularized feature map and the number of units that its mask sets to zero.

        The number is a tensor (0-dim, int64), so that nobody waits for it, or an integer that is known beforehand; None
        where the layer has added it to `meter` itself.
        """
        raise NotImplementedError


def has_hooks(module: nn.Module) -> bool:
    """Return whether forward or backward hooks are registered, on the module or globally."""
    own = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    # torch has no public name for those of all modules. These it has from 2.6 to 2.15; its own function over them is
    # missing in 2.6.
    every = torch.nn.modules.module
    return any(own) or bool(
        every._global_forward_hooks
        or every._global_forward_pre_hooks
        or every._global_backward_hooks
        or every._global_backward_pre_hooks
    )


def keep_mask(x: Tensor, shape: tuple[int, ...], rate: float | Tensor) -> Tensor:
    """Return a boolean mask (1 = keep) on the device of `x`, each entry False with probability `rate`."""
    return torch.rand(shape, device=x.device) >= rate


def share_of(ratio: float, num_channels: int) -> int:
    """Return K = floor(ratio · C), at least 1; the 1e-9 makes 0.29 of 100 channels 29, not 28."""
    return max(1, int(ratio * num_channels + 1e-9))


def live_share_of(ratio: Tensor, num_channels: int) -> Tensor:
    """Return the same K of a ratio on a device (0-dim, fp64), int32."""
    return (ratio * num_channels + 1e-9).int().clamp(min=1)


def scale_of(share: float | Tensor) -> float | Tensor:
    """Return 1 / `share`, by which kept units are multiplied; 1 for a share of 0, where none is."""
    if isinstance(share, Tensor):
        return torch.where(share > 0, 1 / share, 1.0)
    return 1 / share if share > 0 else 1.0


def scale_kept(x: Tensor, keep: Tensor, share: float | Tensor) -> Tensor:
    """Return `x` / `share` where `keep` (broadcast to it) is true and 0 elsewhere; a `share` of 0 divides nothing."""
    if isinstance(share, Tensor):
        single = share.float()  # as a number that meets a mask
        return x * torch.where(single > 0, keep / single, 0.0).to(x.dtype)
    return x * (keep / share if share > 0 else keep).to(x.dtype)


def check_rate(name: str, rate: float) -> None:
    """Raise ValueError unless `rate` is in [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {rate}")
