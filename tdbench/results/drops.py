"""What a method's layer drops: seen in one training forward, through the gradient of the layer's own output.

The gradient of sum(layer(x)) with respect to x is the mask times its scale, whatever the method and wherever x itself
is zero: 0 where a unit is dropped, between 0 and 1 where it is damped, 1 or more where it is kept.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, FolderError
from tdbench.models.sites import Insertion
from tdbench.training.network import seeded_insertion
from tdbench.training.precision import Hardware
from tdbench.training.trained import TrainedRun


@dataclass(frozen=True, eq=False)
class Drops:
    """What one method did at one site. The tensors are those of the first images of the batch, on the CPU, in fp32.

    Attributes:
        config: The run of the method.
        site: The site, one of those that the run has.
        maps: What went into the layer, (N, C, H, W).
        gain: What the layer multiplied it by, (N, C, H, W).
        scores: (N, C), larger is more attended.
        ranked_by: What the scores are, in words.
        has_attention: They are the method's own attention, not the mean of each map.
        dropped_pct: Share of the whole batch's units at the site that the layer set to zero.
    """

    config: RunConfig
    site: str
    maps: Tensor
    gain: Tensor
    scores: Tensor
    ranked_by: str
    has_attention: bool
    dropped_pct: float

    @property
    def method(self) -> str:
        """The method's name."""
        return self.config.regularizer.name

    @property
    def dropped(self) -> Tensor:
        """The units that the layer set to zero, (N, C, H, W) bool."""
        return self.gain == 0

    @property
    def damped(self) -> Tensor:
        """The units that the layer scaled down, but not to zero, (N, C, H, W) bool."""
        return (self.gain > 0) & (self.gain < 1)


def observe_drops(
    model: nn.Module,
    config: RunConfig,
    images: Tensor,
    hardware: Hardware,
    num_kept: int,
    trained: TrainedRun | None = None,
) -> Drops:
    """Pass a batch through a network in training mode, with a run's regularizer in it, at its full strength.

    The layers come out again, but batch norm has seen the batch. Seeds torch's global generator with the run's seed.

    Args:
        model: The network, on its device, without a regularizer.
        config: The run.
        images: The batch (N, C, H, W), normalised, on the device.
        hardware: What the run runs on.
        num_kept: How many images of the batch are kept.
        trained: The run that the weights come from; its layers' state is taken over too, where it fits.

    Raises:
        ConfigError: A site is unknown or unsuitable, or its map is one pixel.
        FolderError: The feature maps are not finite.
    """
    insertion = seeded_insertion(model, config, (images.shape[1], images.shape[2], images.shape[3]))
    try:
        model.to(images.device)  # what was inserted
        site = shown_site(config, insertion)
        restored = trained is not None and trained.load_regularizer(insertion, config.regularizer.name)
        layer, seen = insertion.layers[site], _Observation()
        layer.register_forward_pre_hook(seen.begin)
        layer.register_forward_hook(seen.end)
        with hardware.autocast():
            model.train()(images)
    finally:
        insertion.remove()
    dropped_pct = 100 * float((seen.gain == 0).double().mean())
    maps, gain = (tensor[:num_kept].float().cpu() for tensor in (seen.maps, seen.gain))
    if not maps.isfinite().all():
        raise FolderError(
            f"the feature maps at {site} are not finite, so there is nothing to see; the network diverged"
        )
    scores, ranked_by = maps.mean(dim=(2, 3)), "the mean of each map"
    if seen.scores is not None:
        scores, ranked_by = seen.scores[:num_kept].float().cpu(), f"{config.regularizer.name}'s attention"
        if layer.state_dict():
            ranked_by += ", weights of the run" if restored else ", initial weights"
    return Drops(config, site, maps, gain, scores, ranked_by, seen.scores is not None, dropped_pct)


def shown_site(config: RunConfig, insertion: Insertion) -> str:
    """Return the site to look at: the first, or the last branch, since a rate that rises with depth is full there.

    Raises:
        ConfigError: Its map is one pixel.
    """
    sites = list(insertion.shapes)
    site = sites[-1] if config.regularizer.placement == "branch" else sites[0]
    if insertion.shapes[site][1:] == (1, 1):
        raise ConfigError(f"site {site!r} puts out maps of 1×1 pixel, which have nothing to see; choose an earlier one")
    return site


class _Observation:
    """Hooks of a layer that note what goes in, how the layer ranks it, and what the layer multiplies it by."""

    maps: Tensor
    gain: Tensor
    scores: Tensor | None

    def begin(self, layer: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        """Note the input, and cut it off from what came before."""
        self.maps = args[0].detach()
        kind, devices = self.maps.device.type, [self.maps.device.index or 0] if self.maps.device.type != "cpu" else []
        # A ranking at random draws the numbers that the layer itself will draw.
        with torch.random.fork_rng(devices, device_type=kind), torch.autocast(kind, enabled=False), torch.no_grad():
            self.scores = layer.scores(self.maps)
        return (self.maps.requires_grad_(),)

    def end(self, layer: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Note the gain, and hand the output on."""
        (self.gain,) = torch.autograd.grad(output.sum(), args[0])
        self.maps = self.maps.detach()
        return output.detach()
