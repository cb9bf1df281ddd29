"""What a method's layer drops, from its mask in one training forward."""

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from tdbench.config import RunConfig
from tdbench.errors import ConfigError, FolderError
from tdbench.models.insertion import Insertion
from tdbench.regularizers.base import Regularizer
from tdbench.regularizers.mask import mask_of
from tdbench.training.setup import Setup
from tdbench.training.trained import TrainedRun


@dataclass(frozen=True, eq=False)
class Drops:
    """What one method dropped at one site. The tensors are of the first images of the batch, on the CPU, in fp32.

    Attributes:
        config: The run of the method.
        site: One of the sites of the run.
        maps: The layer's input, (N, C, H, W).
        gain: The factor by which the layer multiplied it, (N, C, H, W).
        scores: (N, C), larger is more attended.
        ranked_by: What the scores are, in words.
        has_attention: Whether they are the method's own attention, not the mean of each map.
        is_shared: Whether one mask serves all channels of an image.
        dropped_pct: Share of the whole batch's units at the site that the layer set to zero.
    """

    config: RunConfig
    site: str
    maps: Tensor
    gain: Tensor
    scores: Tensor
    ranked_by: str
    has_attention: bool
    is_shared: bool
    dropped_pct: float

    @property
    def method(self) -> str:
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
    setup: Setup, config: RunConfig, images: Tensor, num_kept: int, trained: TrainedRun | None = None
) -> Drops:
    """Pass a batch through a network in training mode, with a run's regularizer in it, at its full strength.

    The layers are removed again, but batch norm's running statistics are updated. Seeds torch's global generator with
    the run's seed.

    Args:
        setup: The network, on its device, without a regularizer.
        config: The run of the method.
        images: The batch (N, C, H, W), normalised, on the device.
        num_kept: Number of images of the batch in the result.
        trained: The run that the weights come from; the state of its layers is loaded too, where it fits.

    Raises:
        ConfigError: A site is unknown or unsuitable, or its map is one pixel.
        FolderError: The feature maps are not finite.
    """
    insertion = setup.insert(config)
    try:
        site = shown_site(config, insertion)
        restored = trained is not None and trained.load_regularizer(insertion, config.regularizer.name)
        layer = insertion.layers[site]
        seen = _Observation()
        layer.register_forward_pre_hook(seen.look)
        with suppress(_Stop), torch.no_grad(), setup.hardware.autocast():
            setup.model.train()(images)
    finally:
        insertion.remove()
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
    return Drops(
        config=config,
        site=site,
        maps=maps,
        gain=gain,
        scores=scores,
        ranked_by=ranked_by,
        has_attention=seen.scores is not None,
        is_shared=maps.shape[1] == 1 or (layer.traits is not None and layer.traits.shared),
        dropped_pct=100 * float((seen.gain == 0).cpu().double().mean()),
    )


def shown_site(config: RunConfig, insertion: Insertion) -> str:
    """Return the site to show: the first, or the last branch, where a rate that rises with depth is highest.

    Raises:
        ConfigError: Its map is one pixel.
    """
    sites = list(insertion.shapes)
    site = sites[-1] if config.regularizer.placement == "branch" else sites[0]
    if insertion.shapes[site][1:] == (1, 1):
        raise ConfigError(f"site {site!r} puts out maps of 1×1 pixel, which have nothing to see; choose an earlier one")
    return site


class _Stop(Exception):
    """Ends a forward early."""


class _Observation:
    """A layer's input, its scores of the channels, and its mask, taken by a hook."""

    maps: Tensor
    gain: Tensor
    scores: Tensor | None

    def look(self, layer: Regularizer, args: tuple[Tensor]) -> None:
        """Forward pre-hook: observe the layer, and end the forward, since later layers do not affect it."""
        self.maps = args[0].detach()
        same_draws = torch.random.fork_rng([self.maps.device] if self.maps.is_cuda else [])
        with same_draws, torch.autocast(self.maps.device.type, enabled=False):  # a ranking may be drawn at random
            self.scores = layer.scores(self.maps)
        self.gain, _ = mask_of(layer.forward, self.maps)
        raise _Stop
