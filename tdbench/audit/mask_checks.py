"""The checks of masks against what a new layer draws, and what the method promises; each as in `checks`."""

import math
from collections.abc import Callable
from statistics import fmean, variance

from tdbench.audit.site import Draw, Found, Mask, Site

CONFIDENCE = 0.999  # of the interval that must exclude the nominal figure: an audit has many sites
ROUNDING = 1e-6
SCALE_ROUNDING = 1e-5  # of a mean over a whole mask in fp32
FEWEST_BATCHES = 4  # whose scatter says something: shares are counts, and two of them are often equal
FAR_APART = 6.0  # standard errors between the shares of a row or column
ALIKE = 0.5  # share of the samples with the same target channels, from which on it is worth a note


def sum_kept(site: Site) -> Found:
    """What is kept is scaled up by as much as is dropped, where the method makes up for that."""
    mask, traits = site.mask, site.claims.traits
    if mask is None or not 0 < mask.share < 1 or not mask.is_product:
        return
    if traits is not None and not (traits.rescales and traits.keeps_mean):
        return
    if len(mask.batches) < FEWEST_BATCHES:
        return
    low, high = mask.mean_factor(CONFIDENCE)
    allowed = SCALE_ROUNDING + mask.top_scale * one_part(mask, site.shape)
    if low - allowed <= 1 <= high + allowed:
        return
    block = site.claims.block
    covers = block is not None and block >= min(site.shape[1:])  # a map that is covered whole has nothing to scale
    product = f"kept scale × (1 − share dropped) is {(low + high) / 2:.4g}, not 1"
    if traits is None:
        yield "note", f"{product}: the mean of the map is another in training than in evaluation"
    elif mask.top_scale > 1 + ROUNDING:
        yield "note" if covers else "fault", f"{product}, where {site.claims.method} makes up for what it drops"


def one_part(mask: Mask, shape: tuple[int, int, int]) -> float:
    """Return by how much the share dropped moves with one part more or less, of those that are dropped whole.

    A few samples may all have lost as many, so that they seem not to scatter.
    """
    units = {"samples": math.prod(shape), "maps": shape[1] * shape[2]}.get(mask.dropped_whole or "parts", 0)
    return units / sum(draw.num_units for draw in mask.draws)


def draws_differ(site: Site) -> Found:
    """Masks that are drawn are drawn anew in each step."""
    mask = site.mask
    if mask is None or not 0 < mask.share < 1:
        return
    by_batch = [{draw.digest for draw in batch} for batch in mask.batches]
    is_fixed = len(set.union(*by_batch)) == 1
    if mask.claims_random and all(len(batch) == 1 for batch in by_batch) and len(mask.batches[0]) > 1:
        yield "fault", f"each draw for a batch is the same mask where {site.claims.method} draws anew"
    elif is_fixed and site.claims.traits is None:
        yield "note", "one and the same mask is used in every step"
    elif mask.one_for_batch and site.claims.traits is None:
        yield "note", "one mask serves all samples of a batch"


def lies_apart(mask: Mask, profile: Callable[[Draw], tuple[float, ...]]) -> bool:
    """Return whether the share dropped in any row, or column, is far from that of a layer newly built.

    Both are taken as a part of the whole mask's share, which has a check of its own.
    """
    found, claimed = (
        [[part / draw.share for part in profile(draw)] for batch in batches for draw in batch if draw.num_dropped]
        for batches in (mask.batches, mask.claimed)
    )
    if min(len(found), len(claimed)) < 8:
        return False
    for ours, theirs in zip(zip(*found, strict=True), zip(*claimed, strict=True), strict=True):
        error = math.sqrt(variance(ours) / len(ours) + variance(theirs) / len(theirs))
        if abs(fmean(ours) - fmean(theirs)) > max(FAR_APART * error, 0.1):
            return True
    return False


def targets(site: Site) -> Found:
    """The channels that lose units are those that the layer's own scores rank highest, and lose their peaks."""
    mask, traits = site.mask, site.claims.traits
    if mask is None or traits is None or not mask.num_dropped:
        return
    in_top, holds_peak = mask.mean_of("in_top"), mask.mean_of("holds_peak")
    if in_top is not None and in_top < 1:
        told = f"{100 * (1 - in_top):.3g} % of the maps that lose units are not those that the attention ranks highest"
        yield "fault", told
    if traits.holds_peak and holds_peak is not None and holds_peak < 1:
        yield (
            "fault",
            f"{100 * (1 - holds_peak):.3g} % of the maps that lose units keep the peak, round which they should",
        )
    alike = mask.mean_of("alike")
    if in_top is not None and alike is not None and alike > ALIKE:
        most = max(draw.num_channels_hit for draw in mask.draws)
        yield (
            "note",
            f"{100 * alike:.0f} % of the samples have the target channels of the first sample of their batch; at most "
            f"{most} of {site.shape[0]} channels are targets of any",
        )


def on_branches(site: Site) -> Found:
    """Whole samples are dropped where a branch ends, so that the shortcut passes them on."""
    traits = site.claims.traits
    if traits is not None and traits.drops == "samples" and not site.name.endswith(".branch"):
        yield (
            "note",
            "whole samples are dropped: if no residual branch ends there, nothing of their images goes on",
        )


MASK_CHECKS = (sum_kept, draws_differ, targets, on_branches)
