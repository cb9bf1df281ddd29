"""One site of an audit: what the configuration claims, and what was measured."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from scipy.special import stdtrit

from tdbench.audit.passage import Passage
from tdbench.regularizers.base import Regularizer, Traits
from tdbench.regularizers.config import RegularizerConfig

FEWEST_TELLING = 8  # draws

Level = Literal["fault", "note"]
Found = Iterator[tuple[Level, str]]


@dataclass(frozen=True)
class Claims:
    """What the configuration claims about a site.

    Attributes:
        nominal: Share of the units to drop, at full strength; None: unknown.
        block: Side of a block in pixels, as configured; None: no blocks.
        block_in_map: (height, width) that a block has in the site's map.
        is_default: The knobs and the sites are the method's own.
    """

    method: str
    schedule: str
    traits: Traits | None
    nominal: float | None
    block: int | None
    block_in_map: tuple[int, int] | None
    remarks: tuple[str, ...]
    is_default: bool = False


def claims_of(
    regularizer: RegularizerConfig, layer: Regularizer, shape: tuple[int, int, int], is_placed: bool
) -> Claims:
    """Return the claims of a layer newly built from its configuration, for a (C, H, W) map."""
    fields = type(regularizer).model_fields
    has_defaults = all(value == fields[name].default for name, value in regularizer.knobs().items() if name in fields)
    return Claims(
        method=regularizer.name,
        schedule=regularizer.schedule,
        traits=layer.traits,
        nominal=layer.nominal_share(shape),
        block=layer.block(),
        block_in_map=layer.block_in(shape),
        remarks=tuple(layer.remarks()),
        is_default=has_defaults and not is_placed,
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
        mean_factor: Mean of the mask over all units, those dropped too: kept scale × (1 − share).
        digest: Of what is dropped.
        down, across: Share of units dropped in each row, and in each column.
        holds_peak: Of the maps that lose units, the share that lose their largest one.
        in_top: Of those maps, the share whose channel the layer's own scores put among its targets; None: it has none.
        alike: The share of samples in which the same channels lose units as in the first.
        num_channels_hit: Channels that lose units in any sample.
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
    mean_factor: float
    digest: bytes
    down: tuple[float, ...]
    across: tuple[float, ...]
    holds_peak: float | None
    in_top: float | None
    alike: float | None
    num_channels_hit: int

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
        claims_random: So does one newly built from the configuration, whose draws are `claimed`, by batch.
    """

    batches: tuple[tuple[Draw, ...], ...]
    start: tuple[Draw, ...]
    num_counted: int | None
    is_off: bool
    is_random: bool
    claims_random: bool = False
    claimed: tuple[tuple[Draw, ...], ...] = ()

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
        low, high = t_interval(self.shares, confidence)
        return max(0.0, low), min(1.0, high)

    def mean_factor(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the t interval of kept scale × (1 − share), the batches being the samples."""
        return t_interval([fmean(draw.mean_factor for draw in batch) for batch in self.batches], confidence)

    @property
    def kept_scale(self) -> float:
        """The mean factor of the units that are kept."""
        return fmean(draw.kept_scale for draw in self.draws)

    def mean_of(self, name: str) -> float | None:
        """Return the mean of a figure over the draws that have it; None where none has."""
        values = [value for draw in self.draws if (value := getattr(draw, name)) is not None]
        return fmean(values) if values else None

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
        told = [draw.one_for_batch for draw in self.draws if draw.one_for_batch is not None]
        return all(told) if len(told) >= FEWEST_TELLING else None  # two samples may have one mask by chance

    @property
    def window(self) -> tuple[int | None, int | None]:
        """The shortest run of dropped units, down and across, that does not touch the border."""
        down, across = zip(*(draw.window for draw in self.draws), strict=True)
        return _least(down), _least(across)


def t_interval(values: list[float], confidence: float) -> tuple[float, float]:
    """Return Student's t confidence interval of a mean."""
    half = stdtrit(len(values) - 1, (1 + confidence) / 2) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - float(half), fmean(values) + float(half)


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
        num_without_call: Training forwards, of `num_forwards`, that did not call the layer.
        passage: What becomes of the layer's output in the network; None where it was not called in training.
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
    num_without_call: int = 0
    num_forwards: int = 0
    passage: Passage | None = None

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

    def ratios(self) -> dict[str, Any]:
        """Return what the layer shifts, by name: ratios of training to evaluation; None where that was not seen."""
        return {
            "mean_ratio": self.passage and self.passage.ratio(0),
            "var_ratio": self.passage and self.passage.ratio(1),
            "batch_norm": self.passage and self.passage.batch_norm,
            "bn_mean_ratio": self.passage and self.passage.ratio(2),
            "bn_var_ratio": self.passage and self.passage.ratio(3),
        }


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
