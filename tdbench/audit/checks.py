"""The checks of an audit. A check takes a site and yields findings; CHECKS lists them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tdbench.audit.mask_checks import CONFIDENCE, MASK_CHECKS, ROUNDING, draws_differ, lies_apart, one_part
from tdbench.audit.passage_checks import PASSAGE_CHECKS
from tdbench.audit.site import Found, Level, Site

FAR = 1.5  # ratio of measured and nominal share, either way, from which on it is a fault
NOTABLE = 1.1  # from which on it is worth a note
APART = 3.0  # ratio of the shares of two sites from which on it is worth a note


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found.

    Attributes:
        level: `fault`: the regularizer is not doing what its configuration says. `note`: worth knowing.
        text: In words, such that ` at SITE, SITE` may follow.
        sites: The sites concerned; empty: all of them.
    """

    level: Level
    text: str
    sites: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.level}: {self.text}" + (f" at {', '.join(self.sites)}" if self.sites else "")


def calls(site: Site) -> Found:
    """The layer is called in training, once a forward, and in training mode."""
    if site.calls_train == 0:
        yield "fault", "the layer is called in evaluation only" if site.calls_eval else "the layer is never called"
    elif not site.is_training:
        yield "fault", "the layer is left in evaluation mode while the network trains"
    if site.calls_train > 1:
        yield "note", f"the layer is called {site.calls_train} times in one forward"


def evaluation(site: Site) -> Found:
    """The layer is the identity in evaluation."""
    if site.eval_identity is False:
        yield "fault", "the layer changes its input in evaluation"


def off(site: Site) -> Found:
    """Something is dropped, unless the claim is nothing; and not everything."""
    mask, claims = site.mask, site.claims
    if mask is None or not site.is_training:
        return
    if mask.is_off and claims.traits is None and claims.nominal == 0:
        yield "note", "the baseline drops nothing"
    elif mask.is_off:
        yield "fault", "nothing was dropped: the layer is off"
    elif mask.num_dropped == 0:
        yield "note", f"no unit was dropped in {len(mask.draws)} draws, though the layer is not off"
    elif mask.share == 1 and mask.is_product:
        asked = claims.nominal is not None and claims.nominal >= 1 - ROUNDING
        yield "note" if asked else "fault", "every unit was dropped, and nothing passes"


def product(site: Site) -> Found:
    """The output is the input times a mask and a scale, and a gradient passes."""
    mask = site.mask
    if mask is None or mask.is_product:
        return
    if mask.share == 1:
        yield "fault", "no gradient passes through the layer"
    else:
        yield (
            "note" if site.claims.traits is None else "fault",
            "the output is not the input times a mask and a scale, so the figures say little",
        )


def granularity(site: Site) -> Found:
    """What is dropped whole is what the method drops whole."""
    mask, traits = site.mask, site.claims.traits
    if mask is None or traits is None or mask.dropped_whole is None or swallows_maps(site):
        return
    (channels, height, width), found, method = site.shape, mask.dropped_whole, site.claims.method
    promised = {"units": "parts", "blocks": "parts"}.get(traits.drops, traits.drops)
    one_channel_is_a_sample = channels == 1 and {found, promised} == {"maps", "samples"}
    if found == promised or one_channel_is_a_sample or height * width == 1:
        return
    whole = {"parts": "parts of maps", "maps": "whole maps", "samples": "whole samples"}[found]
    yield "fault", f"{whole} are dropped where {method} drops {what_it_drops(site)}"


def swallows_maps(site: Site) -> bool:
    """Return whether blocks cover whole maps, so that no part of a map is kept where one falls."""
    mask = site.mask
    is_whole = mask is not None and (mask.share == 1 or mask.dropped_whole in ("maps", "samples"))
    return is_whole and site.claims.block_in_map == site.shape[1:]


def what_it_drops(site: Site) -> str:
    """Return what the method drops whole, in words."""
    traits, block = site.claims.traits, site.claims.block_in_map
    drops = traits.drops if traits else "nothing"
    if drops == "blocks" and block is not None:
        return f"blocks of {block[0]}×{block[1]}"
    return {"maps": "whole maps", "samples": "whole samples"}.get(drops, drops)


def blocks(site: Site) -> Found:
    """Blocks are as large as configured, and fit into the map."""
    mask, claims, block = site.mask, site.claims, site.claims.block_in_map
    if mask is None or claims.traits is None or claims.block is None or block is None:
        return
    _, height, width = site.shape
    if swallows_maps(site):
        level: Level = "note" if claims.is_default else "fault"  # as the method's source has it
        yield level, f"block {claims.block} covers the whole {height}×{width} map"
        yield "note", f"k = {claims.block} and k = {claims.block + 2} are the same"
    elif claims.block > min(height, width):
        yield "note", f"a block of {claims.block} is wider than the {height}×{width} map"
    if claims.traits.drops != "blocks":
        return
    for side, configured, measured in zip(("tall", "wide"), block, mask.window, strict=True):
        # Where much is dropped, blocks touch, and there may be no single one to measure.
        if measured is not None and (measured < configured or (measured > configured and mask.share < 0.25)):
            yield "fault", f"blocks are {measured} units {side} where a block of {configured} is configured"


def sharing(site: Site) -> Found:
    """Channels have a mask each, or one together, as the method says; samples have one each."""
    mask, traits, method = site.mask, site.claims.traits, site.claims.method
    if mask is None or traits is None or traits.drops == "samples":
        return
    if mask.one_for_channels and not traits.shared:
        yield "fault", f"one mask serves all channels where {method} has one per channel"
    if mask.one_for_channels is False and traits.shared:
        yield "fault", f"each channel has a mask of its own where {method} has one for all"
    if mask.one_for_batch and not swallows_maps(site):  # whole maps: the channels that all samples attend to
        yield "fault", f"one mask serves the whole batch where {method} has one per sample"


def scale(site: Site) -> Found:
    """What is kept is scaled up where the method says so, and only there."""
    mask, traits, method = site.mask, site.claims.traits, site.claims.method
    if mask is None or traits is None or not 0 < mask.share < 1:
        return
    if traits.rescales and mask.top_scale <= 1 + ROUNDING and not swallows_maps(site):  # nothing kept to scale
        yield "fault", f"what is kept is not scaled up where {method} scales it"
    if not traits.rescales and mask.top_scale > 1 + ROUNDING:
        yield "fault", f"what is kept is scaled by up to {mask.top_scale:.3g} where {method} leaves it alone"


def places(site: Site) -> Found:
    """Units are dropped where the method drops them: as often in each row and column as by a new layer."""
    mask, traits = site.mask, site.claims.traits
    if mask is None or traits is None or not traits.blind or not 0 < mask.share < 1:
        return
    if any(True for check in (granularity, blocks, draws_differ) for _ in check(site)):  # which says more
        return
    for name, profile in (("rows", lambda draw: draw.down), ("columns", lambda draw: draw.across)):
        if lies_apart(mask, profile):
            yield "fault", f"units are dropped in other {name} than {site.claims.method} drops them in"


def share(site: Site) -> Found:
    """The share dropped is the nominal one."""
    mask, traits, nominal = site.mask, site.claims.traits, site.claims.nominal
    if mask is None or nominal is None or mask.num_dropped == 0:
        return
    if nominal == 0:
        yield "fault", f"{100 * mask.share:.3g} % of the units are dropped where none should be"
        return
    low, high = mask.interval(CONFIDENCE)
    step = one_part(mask, site.shape)
    times = max(mask.share / nominal, nominal / mask.share)
    varies = traits is not None and traits.share_varies
    if low - step <= nominal <= high + step or times < (FAR if varies else NOTABLE):
        return
    text = f"{100 * mask.share:.3g} % of the units are dropped where {100 * nominal:.3g} % is nominal"
    yield "fault" if times > FAR and not varies else "note", text


def schedule(site: Site) -> Found:
    """A linear schedule begins with nothing."""
    mask = site.mask
    if mask is not None and site.claims.schedule == "linear" and mask.start_share > 0:
        shares = f"{100 * mask.start_share:.3g} % of the units at the start and {100 * mask.share:.3g} % at the end"
        yield "fault", f"the schedule never ramps: it is linear, and the layer drops {shares} of training"


def count(site: Site) -> Found:
    """The layer counts what it drops."""
    mask = site.mask
    if mask is not None and mask.num_counted is not None and mask.num_counted != mask.num_dropped:
        num_units = sum(draw.num_units for draw in mask.draws)
        counted, dropped = (100 * number / num_units for number in (mask.num_counted, mask.num_dropped))
        yield "fault", f"the layer counts {counted:.3g} % of the units as dropped, and its mask drops {dropped:.3g} %"


def gradient(site: Site) -> Found:
    """The layer's own parameters are trained."""
    if site.gradient == "no" and site.calls_train:
        yield "fault", "no gradient reaches the layer's own parameters"


def remarks(site: Site) -> Found:
    """The method's own remarks."""
    for remark in site.claims.remarks:
        yield "note", remark


CHECKS: tuple[Callable[[Site], Found], ...] = (
    calls,
    evaluation,
    off,
    product,
    granularity,
    blocks,
    sharing,
    scale,
    *MASK_CHECKS,
    places,
    share,
    schedule,
    count,
    gradient,
    *PASSAGE_CHECKS,
    remarks,
)


def findings(sites: Sequence[Site]) -> tuple[Finding, ...]:
    """Return the findings of all checks, faults first; equal findings of several sites are merged."""
    where: dict[tuple[Level, str], list[str]] = {}
    for check in CHECKS:
        for site in sites:
            for found in check(site):
                where.setdefault(found, []).append(site.name)
    all_findings = [Finding(level, text, tuple(names)) for (level, text), names in where.items()] + differences(sites)
    return tuple(sorted(all_findings, key=lambda finding: finding.level == "note"))


def differences(sites: Sequence[Site]) -> list[Finding]:
    """Return a note where one site drops a much larger share than another."""
    shares = {site.name: site.mask.share for site in sites if site.mask is not None and site.mask.share > 0}
    if not shares:
        return []
    most, least = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    if shares[most] < APART * shares[least]:
        return []
    return [Finding("note", f"{most} drops {shares[most] / shares[least]:.1f} times the share of {least}")]
