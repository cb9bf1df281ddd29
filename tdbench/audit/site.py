"""One site of an audit: what the configuration claims, and what was measured."""

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from scipy.special import stdtrit

from tdbench.regularizers.base import Regularizer, Traits
from tdbench.regularizers.config import RegularizerConfig


@dataclass(frozen=True)
class Claims:
    """What the configuration claims about a site.

    Attributes:
        nominal: Share of the units to drop, at full strength; None: unknown.
        block: Side of a block in pixels, as configured; None: no blocks.
        block_in_map: (height, width) that a block has in the site's map.
    """

    method: str
    schedule: str
    traits: Traits | None
    nominal: float | None
    block: int | None
    block_in_map: tuple[int, int] | None
    remarks: tuple[str, ...]


def claims_of(regularizer: RegularizerConfig, layer: Regularizer, shape: tuple[int, int, int]) -> Claims:
    """Return the claims of a layer newly built from its configuration, for a (C, H, W) map."""
    return Claims(
        method=regularizer.name,
        schedule=regularizer.schedule,
        traits=layer.traits,
        nominal=layer.nominal_share(shape),
        block=layer.block(),
        block_in_map=layer.block_in(shape),
        remarks=tuple(layer.remarks()),
    )


class Draw(NamedTuple):
    """One mask, as the layer drew it for one batch.

    Attributes:
        num_dropped: Units that the mask sets to zero, of `num_units`.
        kept_scale: Mean factor of the units that are kept, and `top_scale` the largest; 0 where none is.
        whole_maps, whole_samples: Every map, or sample, is dropped whole or kept whole.
        one_for_channels, one_for_batch: All channels of each sample, or all samples, have the same mask; None where
            the draw cannot tell.
        window: The shortest run of dropped units (down, across) that does not touch the border; None: no such run.
        changes: The layer returned something other than its input.
        is_product: Its output is its input times the mask.
    """

    num_dropped: int
    num_units: int
    kept_scale: float
    top_scale: float
    whole_maps: bool
    whole_samples: bool
    one_for_channels: bool | None
    one_for_batch: bool | None
    window: tuple[int | None, int | None]
    changes: bool
    is_product: bool

    @property
    def share(self) -> float:
        """The share of units dropped."""
        return self.num_dropped / self.num_units


@dataclass(frozen=True)
class Mask:
    """The masks that were drawn at one site.

    Attributes:
        batches: The draws at full strength, by batch.
        start: The draws at the start of training, for the first batch.
        num_counted: Units dropped by the layer's own count, over `batches`; None where it does not count.
        is_off: The layer returned its input in every draw, and in many further tries.
        is_random: The layer drew from torch's random generators.
    """

    batches: tuple[tuple[Draw, ...], ...]
    start: tuple[Draw, ...]
    num_counted: int | None
    is_off: bool
    is_random: bool

    @property
    def draws(self) -> list[Draw]:
        """All draws at full strength."""
        return [draw for batch in self.batches for draw in batch]

    @property
    def is_product(self) -> bool:
        """The output is the input times the mask and a scale."""
        return all(draw.is_product for draw in self.draws)

    @property
    def num_dropped(self) -> int:
        """Units dropped over all draws at full strength."""
        return sum(draw.num_dropped for draw in self.draws)

    @cached_property
    def shares(self) -> list[float]:
        """The share dropped of each batch, the mean over its draws."""
        return [fmean(draw.share for draw in batch) for batch in self.batches]

    @property
    def share(self) -> float:
        """The share of units dropped at full strength."""
        return fmean(self.shares)

    @property
    def start_share(self) -> float:
        """The share of units dropped at the start of training."""
        return fmean(draw.share for draw in self.start)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's t confidence interval of the mean share; the batches are the independent samples."""
        num_batches = len(self.shares)
        half = stdtrit(num_batches - 1, (1 + confidence) / 2) * stdev(self.shares) / math.sqrt(num_batches)
        return max(0.0, self.share - float(half)), min(1.0, self.share + float(half))

    @property
    def kept_scale(self) -> float:
        """The mean factor of the units that are kept."""
        return fmean(draw.kept_scale for draw in self.draws)

    @property
    def top_scale(self) -> float:
        """The largest factor of any unit."""
        return max(draw.top_scale for draw in self.draws)

    @property
    def dropped_whole(self) -> Literal["parts", "maps", "samples"] | None:
        """The largest part that is always dropped whole; None where all draws dropped nothing, or everything."""
        telling = [draw for draw in self.draws if 0 < draw.num_dropped < draw.num_units]
        if not telling:
            return None
        if all(draw.whole_samples for draw in telling):
            return "samples"
        return "maps" if all(draw.whole_maps for draw in telling) else "parts"

    @property
    def one_for_channels(self) -> bool | None:
        """All channels of a sample have one mask, in every draw that can tell."""
        return _all_that_tell([draw.one_for_channels for draw in self.draws])

    @property
    def one_for_batch(self) -> bool | None:
        """All samples of a batch have one mask, in every draw that can tell."""
        return _all_that_tell([draw.one_for_batch for draw in self.draws])

    @property
    def window(self) -> tuple[int | None, int | None]:
        """The shortest run of dropped units, down and across, that does not touch the border."""
        down, across = zip(*(draw.window for draw in self.draws), strict=True)
        return _least(down), _least(across)


def _all_that_tell(answers: list[bool | None]) -> bool | None:
    told = [answer for answer in answers if answer is not None]
    return all(told) if told else None


def _least(lengths: tuple[int | None, ...]) -> int | None:
    return min((length for length in lengths if length is not None), default=None)


@dataclass(frozen=True)
class Site:
    """One site of an audited network.

    Attributes:
        shape: (C, H, W) of the feature map.
        calls_train, calls_eval: Calls of the layer in one forward of the network, by mode.
        is_training: The layer itself was in training mode while the network trained; None: not called.
        eval_identity: The layer returned its input in evaluation, bit for bit; None: not called.
        gradient: Whether a gradient reached the layer's own parameters; `none`: it has none.
        mask: None where the layer was not called in training.
    """

    name: str
    shape: tuple[int, int, int]
    claims: Claims
    calls_train: int
    calls_eval: int
    is_training: bool | None
    eval_identity: bool | None
    gradient: Literal["yes", "no", "none"]
    mask: Mask | None

    def row(self) -> dict[str, Any]:
        """Return the figures by name, shares in per cent; what was not measured is None."""
        mask, nominal, block = self.mask, self.claims.nominal, self.claims.block_in_map
        low, high = mask.interval() if mask else (None, None)
        return {
            "site": self.name,
            "map": "x".join(map(str, self.shape)),
            "block_size": self.claims.block,
            "effective_block": block and "x".join(map(str, block)),
            "nominal_pct": percent(nominal),
            "dropped_pct": percent(mask.share if mask else None),
            "ci95_low": percent(low),
            "ci95_high": percent(high),
            "n": mask and len(mask.batches),
            "output_scale": mask and mask.kept_scale,
            "eval_identity": self.eval_identity,
            "gradient": self.gradient,
            "random": mask and mask.is_random,
            "calls_train": self.calls_train,
            "calls_eval": self.calls_eval,
        }


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
