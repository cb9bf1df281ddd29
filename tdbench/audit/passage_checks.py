"""The checks of what becomes of a layer's output in the network; each as in `checks`."""

from tdbench.audit.passage import Passage
from tdbench.audit.site import Found, Site

ENOUGH = 0.9  # of the samples; where fewer show a layer's effect, something leaves it out
MOST_WITHOUT = 0.5  # of the channels without a gradient: some are dead in any network
SAME_GRADIENT = 0.01  # largest deviation, as a share, that rounding explains
SHIFTED = 0.02  # deviation of a ratio of mean or variance from 1, from which on it is worth a note


def every_forward(site: Site) -> Found:
    """The layer is called in every training forward."""
    called = site.num_forwards - site.num_without_call
    if 0 < called < site.num_forwards:
        yield "fault", f"the layer is called in {called} of {site.num_forwards} training forwards"


def reaches_the_scores(site: Site) -> Found:
    """With noise on its output, with what it drops put back, and without the layer, the scores are others."""
    passage = site.passage
    if passage is None or not passage.num_samples:
        return
    if not passage.num_reached:
        yield "fault", "what the layer puts out does not reach the scores: they are the same whatever it is"
    elif passage.num_used < passage.num_forwards:
        counts = f"{passage.num_used} of {passage.num_forwards} forwards"
        yield (
            "fault",
            f"what the layer puts out is used in {counts} only: in the others the scores are the same without",
        )
    elif passage.num_reached < ENOUGH * passage.num_samples:
        counts = f"{passage.num_reached} of {passage.num_samples} samples"
        yield "fault", f"what the layer puts out reaches the scores of {counts} only"
    elif passage.num_dropped and not passage.num_missed:
        yield "fault", "what the layer drops is put back behind it: the scores are the same with it in place"
    elif passage.num_missed < ENOUGH * passage.num_dropped:
        counts = f"{passage.num_dropped - passage.num_missed} of {passage.num_dropped} samples"
        yield "fault", f"what the layer drops is put back behind it in {counts}"
    elif passage.num_acted and not passage.num_felt:
        yield "fault", "what the layer does is undone behind it: the scores are the same without it"


def acts_on_all(site: Site) -> Found:
    """A layer of which nothing is known acts on every sample of every step."""
    passage, mask = site.passage, site.mask
    if passage is None or mask is None or site.claims.traits is not None or not passage.num_acted:
        return
    num_tried = passage.num_idle + passage.num_forwards
    if passage.num_idle:
        yield "note", f"the layer changes nothing in {passage.num_idle} of {num_tried} forwards"
    if passage.num_acted < ENOUGH * passage.num_samples:
        counts = f"{passage.num_acted} of {passage.num_samples} samples"
        yield "note", f"the layer changes {counts} only"


def gradient_passes(site: Site) -> Found:
    """The gradient passes the layer and goes on, as the mask and its scale have it."""
    passage, mask = site.passage, site.mask
    if (
        passage is None
        or mask is None
        or not passage.num_reached
        or not passage.num_acted
        or (mask.share == 1 and mask.is_product)
    ):
        return
    if not passage.in_graph:
        yield "fault", "the network runs the layer without a gradient, so that nothing before it is trained through it"
    elif passage.num_sent and not passage.num_back:
        yield "fault", "no gradient comes back to what the layer puts out: it is detached behind the layer"
    elif passage.num_back < ENOUGH * passage.num_sent:
        counts = f"{passage.num_back} of {passage.num_sent} samples"
        yield "fault", f"a gradient comes back to what the layer puts out in {counts} only"
    elif num_without(passage) > MOST_WITHOUT * site.shape[0]:
        counts = f"{num_without(passage)} of {site.shape[0]} channels"
        yield "fault", f"no gradient comes back to {counts} of what the layer puts out: they are not used"
    elif has_other_gradient(passage) and mask.is_product and not passage.num_again:
        yield "fault", "the gradient at the layer's input is not that at its output times the mask and its scale"
    elif not passage.goes_on:
        yield "fault", "no gradient goes on to what lies before the layer"


def num_without(passage: Passage) -> int:
    """Return how many channels of a layer's output no gradient came back to."""
    return 0 if passage.channels_back is None else int((~passage.channels_back).sum())


def has_other_gradient(passage: Passage) -> bool:
    """Return whether the gradient at a layer's input is far from that at its output times the mask and its scale."""
    return passage.deviation is not None and passage.deviation > SAME_GRADIENT


def recomputed(site: Site) -> Found:
    """Where a forward is repeated for the gradients, the layer does the same again."""
    passage = site.passage
    if passage is not None and (passage.num_other or (passage.num_again and has_other_gradient(passage))):
        yield "fault", "the layer is called again while gradients are computed, and puts out something else then"


def shifts_batch_norm(site: Site) -> Found:
    """What a batch norm behind the layer averages in training is what it gets in evaluation."""
    passage = site.passage
    if passage is None or passage.batch_norm is None:
        return
    ratios = passage.ratio(2), passage.ratio(3)
    if any(ratio is not None and abs(ratio - 1) > SHIFTED for ratio in ratios):
        yield (
            "note",
            "a batch norm follows, and averages what the layer shifts: the mean or variance that it gets is not that "
            "of evaluation (test_error_pct_bn tells what that costs)",
        )


PASSAGE_CHECKS = (every_forward, reaches_the_scores, acts_on_all, gradient_passes, recomputed, shifts_batch_norm)
