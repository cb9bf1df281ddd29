"""Faults of the network round a layer, and of what it draws: each is caught, and named; the healthy twin is not."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tdbench import insert
from tdbench.audit.network import audit_network as audit
from tdbench.regularizers.base import Regularizer
from tdbench.regularizers.dropblock.layer import DropBlock
from tdbench.regularizers.targetdrop.layer import TargetDrop2d
from tests.audit.test_audit import Planted, Stage, audit_of, dropped_blocks, faults, network, notes, plant, rescaled


class Round(nn.Module):
    """Two stages; a function says what becomes of the first one's output, which the layer is in."""

    def __init__(self, use):
        super().__init__()
        self.stem, self.stage1, self.stage2 = Stage(3, 8, 1), Stage(8, 8, 1), Stage(8, 8, 4)
        self.classifier, self.use, self.number = nn.Linear(8, 5), use, 0

    def plain(self, x):
        """Return what the first stage puts out without the layer."""
        return F.relu(self.stage1.bn(self.stage1.conv(x)))

    def forward(self, x):
        self.number += 1
        return self.classifier(self.stage2(self.use(self, self.stem(x))).mean(dim=(2, 3)))


def without_gradient(net, x):
    with torch.no_grad():
        return net.stage1(x)


def every_second(net, x):
    dropped = net.stage1(x)
    return dropped if net.number % 2 else net.plain(x)


def half_the_batch(net, x):
    half = len(x) // 2
    return torch.cat([net.stage1(x)[:half], net.plain(x)[half:]])


def cat_halves(out, detached):
    half = len(out) // 2
    return torch.cat([out[:half].detach() if detached else out[:half], out[half:]])


def undone(net, x):
    dropped = net.stage1(x)
    return torch.where(dropped == 0, net.plain(x), dropped)


def normalised(x):
    with torch.no_grad():
        return (x - x.mean()) / x.std()


def undone_in_part(net, x):
    half, dropped = len(x) // 2, net.stage1(x)
    return torch.cat([dropped[:half], torch.where(dropped == 0, net.plain(x), dropped)[half:]])


def thrown_away(net, x):
    net.stage1(x)
    return net.plain(x)


FAULTY = {
    "thrown away": (thrown_away, "what the layer puts out does not reach the scores: they are the same whatever it is"),
    "overwritten": (
        lambda net, x: net.stage1(x) * 0 + net.plain(x),
        "what the layer puts out does not reach the scores: they are the same whatever it is",
    ),
    "undone by where": (undone, "what the layer drops is put back behind it: the scores are the same with it in place"),
    "undone in half of the batch": (
        undone_in_part,
        r"what the layer drops is put back behind it in \d+ of \d+ samples",
    ),
    "detached": (
        lambda net, x: net.stage1(x).detach(),
        "no gradient comes back to what the layer puts out: it is detached behind the layer",
    ),
    "without a gradient": (
        without_gradient,
        "the network runs the layer without a gradient, so that nothing before it is trained through it",
    ),
    "half of the batch detached": (
        lambda net, x: cat_halves(net.stage1(x), detached=True),
        r"a gradient comes back to what the layer puts out in 24 of 48 samples only",
    ),
    "all channels detached but one": (
        lambda net, x: torch.cat([(out := net.stage1(x))[:, :1], out[:, 1:].detach()], dim=1),
        "no gradient comes back to 7 of 8 channels of what the layer puts out: they are not used",
    ),
    "all channels thrown away but one": (
        lambda net, x: torch.cat([net.stage1(x)[:, :1], net.plain(x)[:, 1:]], dim=1),
        "no gradient comes back to 7 of 8 channels of what the layer puts out: they are not used",
    ),
    "cut before": (lambda net, x: net.stage1(x.detach()), "no gradient goes on to what lies before the layer"),
    "every second forward": (
        every_second,
        "what the layer puts out is used in 3 of 6 forwards only: in the others the scores are the same without",
    ),
    "half of the batch": (
        half_the_batch,
        r"what the layer puts out reaches the scores of \d+ of \d+ samples only",
    ),
    "called every second forward": (
        lambda net, x: net.stage1(x) if net.number % 2 else net.plain(x),
        "the layer is called in 4 of 8 training forwards",
    ),
    "scaled back": (
        lambda net, x: torch.where(net.stage1(x) == 0, net.plain(x), net.plain(x)) + 0 * net.stage1.conv(x),
        "what the layer puts out does not reach the scores: they are the same whatever it is",
    ),
    "recomputed with another mask": (
        lambda net, x: checkpoint(net.stage1, x, use_reentrant=False, preserve_rng_state=False),
        "the layer is called again while gradients are computed, and puts out something else then",
    ),
}
HEALTHY = {
    "as it is": lambda net, x: net.stage1(x),
    "recomputed": lambda net, x: checkpoint(net.stage1, x, use_reentrant=False),
    "recomputed in the old way": lambda net, x: checkpoint(net.stage1, x, use_reentrant=True),
    "in half precision": lambda net, x: net.stage1(x).half().float(),
    "changed in place": lambda net, x: net.stage1(x).mul_(2).add_(x),
    "rectified in place": lambda net, x: F.relu_(net.stage1(x).sub_(0.1)),
}


def in_network(use, method, **knobs):
    torch.manual_seed(0)
    model = Round(use)
    insertion = insert(model, method, ["stage1"], image_shape=(3, 16, 16), **knobs)
    return audit_of(model, insertion)


# With what is kept scaled up, and as it is: the one is felt wherever the output is used, the other where units are 0.
@pytest.mark.parametrize("method", [("dropout", {"p": 0.3}), ("targetdrop", {"rescale": "none"})], ids=str)
@pytest.mark.parametrize("name", FAULTY)
def test_what_the_network_makes_of_the_layer_is_a_fault(name, method):
    use, text = FAULTY[name]
    if (name, method[0]) == ("recomputed with another mask", "targetdrop"):
        pytest.skip("it draws nothing")
    found = faults(in_network(use, method[0], **method[1]))
    assert any(re.fullmatch(f"{text} at stage1", fault) for fault in found), found


@pytest.mark.parametrize("method", ["dropout", "dropblock", "targetdrop", "spatial_dropout", "focused_dropout"])
@pytest.mark.parametrize("use", HEALTHY.values(), ids=HEALTHY)
def test_a_network_that_passes_it_on_is_healthy(use, method):
    audited = in_network(use, method, **({"block_size": 3} if method == "dropblock" else {}))
    assert audited.faults == []
    passage = audited.sites[0].passage
    assert passage.num_reached == passage.num_samples > 0
    assert passage.num_felt == passage.num_acted > 0
    assert passage.num_missed == passage.num_dropped > 0
    if use is HEALTHY["as it is"]:
        assert passage.deviation < 1e-5


def test_images_that_are_normalised_without_a_gradient_are_no_fault():
    class Normalising(Round):
        def forward(self, x):
            return super().forward(normalised(x))

    torch.manual_seed(0)
    model = Normalising(HEALTHY["as it is"])
    assert audit_of(model, insert(model, "dropout", ["stage1"], image_shape=(3, 16, 16))).faults == []


def test_nothing_is_to_be_trained_before_a_layer_behind_frozen_weights():
    torch.manual_seed(0)
    model = Round(lambda net, x: net.stage1(x))
    for module in (model.stem, model.stage1):
        module.requires_grad_(False)
    audited = audit_of(model, insert(model, "dropout", ["stage1"], image_shape=(3, 16, 16)))
    assert audited.faults == []


def test_the_batch_norm_behind_is_the_first_that_feels_the_layer():
    class Parallel(Round):
        def forward(self, x):
            dropped, side = self.stage1(self.stem(x)), self.side(self.stem(x))
            return self.classifier((self.stage2(dropped) + self.stage2(side)).mean(dim=(2, 3)))

    torch.manual_seed(0)
    model = Parallel(None)
    model.side = Stage(8, 8, 1)
    audited = audit_of(model, insert(model, "dropout", ["stage1"], image_shape=(3, 16, 16), p=0.5))
    assert audited.sites[0].passage.batch_norm == "stage2.bn"
    assert audited.sites[0].passage.ratio(3) > 1.05


class Shortcut(Round):
    """What goes into the layer goes past it too."""

    def __init__(self):
        super().__init__(None)
        self.place, self.past = nn.Identity(), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stage1(self.stem(x))
        return self.classifier(self.stage2(self.place(x) + self.past(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("method", ["dropout", "dropblock", "targetdrop"])
def test_a_shortcut_round_the_layer_is_no_fault(method):
    torch.manual_seed(0)
    model = Shortcut()
    audited = audit_of(model, insert(model, method, ["place"], image_shape=(3, 16, 16)))
    assert audited.faults == []
    assert audited.sites[0].passage.deviation < 1e-5


class OnHalf(nn.Module):
    """Drops in half of the batch."""

    def forward(self, x):
        if not self.training:
            return x
        half = len(x) // 2
        return torch.cat([F.dropout(x[:half], 0.25), x[half:]])


class EverySecond(nn.Module):
    """Drops in every second forward."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def forward(self, x):
        self.number += self.training
        return F.dropout(x, 0.25) if self.training and self.number % 2 else x


class OneMask(nn.Module):
    """Drops the same units in all samples."""

    def forward(self, x):
        return x * F.dropout(torch.ones_like(x[:1]), 0.25, self.training)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (OnHalf(), r"the layer changes 24 of 48 samples only at stage1"),
        (EverySecond(), r"the layer changes nothing in \d+ of \d+ forwards at stage1"),
        (OneMask(), "one mask serves all samples of a batch at stage1"),
    ],
    ids=["on half of the batch", "every second forward", "one mask for all"],
)
def test_a_layer_of_the_user_s_that_acts_in_part_is_a_note(layer, text):
    torch.manual_seed(0)
    model = Round(HEALTHY["as it is"])
    insertion = insert(model, layer, ["stage1"], image_shape=(3, 16, 16))
    audited = audit_of(model, insertion)
    assert audited.faults == []
    assert any(re.fullmatch(text, note) for note in notes(audited)), notes(audited)


def test_the_network_s_own_noise_is_not_taken_for_the_layer_s_effect():
    class Noisy(Round):
        def __init__(self, use):
            super().__init__(use)
            self.noise = nn.Dropout(0.5)

        def forward(self, x):
            return super().forward(self.noise(x)) + F.dropout(torch.ones(len(x), 5), 0.5, self.training)

    torch.manual_seed(0)
    model = Noisy(thrown_away)
    found = faults(audit_of(model, insert(model, "dropout", ["stage1"], image_shape=(3, 16, 16), p=0.3)))
    assert found == ["what the layer puts out does not reach the scores: they are the same whatever it is at stage1"]


def test_the_shift_of_a_batch_norm_behind_is_that_of_a_hand_calculation():
    """Kept at 1 / 2 with a chance of 1/2 and not scaled, a map has half its mean; scaled by 2, more variance."""
    audited = in_network(HEALTHY["as it is"], "dropout", p=0.5)
    passage = audited.sites[0].passage
    assert passage.batch_norm == "stage2.bn"
    assert passage.ratio(0) == pytest.approx(1, abs=0.02)  # x / p with chance p keeps the mean,
    assert passage.ratio(1) > 1.5  # and adds mean(x²) to the variance
    assert 0.9 < passage.ratio(2) < 1.1
    assert passage.ratio(3) > 1.05
    (note,) = [text for text in notes(audited, of_batch_norm=True) if text.startswith("a batch norm follows")]
    assert "test_error_pct_bn" in note
    row = audited.rows()[0]
    assert (row["batch_norm"], row["bn_var_ratio"]) == ("stage2.bn", passage.ratio(3))


def test_without_a_batch_norm_behind_there_is_no_such_note():
    model, insertion = network("dropout", ("stage2",), p=0.5)
    audited = audit_of(model, insertion)
    assert audited.sites[0].passage.batch_norm is None
    assert notes(audited, of_batch_norm=True) == []


# What a layer draws


def dropblock_with(mask_of, block_size=5, num_draws=2):
    model, insertion = network("dropblock", p=0.1, block_size=block_size, schedule="constant")
    plant(model, Planted(mask_of))
    return audit_of(model, insertion, num_draws=num_draws)


@pytest.mark.parametrize(
    "factor",
    [
        lambda k: k.numel() / k.sum() * 1.05,
        lambda k: (k.numel() / k.sum()) ** 2,
        lambda k: (k.numel() / k.sum()) ** 0.5,
    ],
)
def test_a_scale_that_does_not_make_up_for_what_is_dropped_is_a_fault(factor):
    def mask_of(x):
        keep = 1 - dropped_blocks(x, 0.1, 5)
        return keep * factor(keep)

    (fault,) = faults(dropblock_with(mask_of))
    assert re.fullmatch(
        r"kept scale × \(1 − share dropped\) is [01]\.\d+, not 1, where dropblock makes up for what it drops at stage1",
        fault,
    )


def test_a_mask_that_is_drawn_once_is_a_fault():
    keep = rescaled(1 - dropped_blocks(torch.ones(8, 8, 16, 16), 0.1, 5))
    (fault,) = faults(dropblock_with(lambda x: keep))
    assert fault == "each draw for a batch is the same mask where dropblock draws anew at stage1"


def test_a_fixed_mask_of_a_user_s_layer_is_a_note():
    class Fixed(nn.Module):
        def forward(self, x):
            keep = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0)) > 0.2
            return x * keep / 0.8 if self.training else x

    found = notes(audit_of(*network(Fixed)))
    assert "one and the same mask is used in every step at stage1" in found


@pytest.mark.parametrize("shift", [(3, 0), (0, -4)])
def test_blocks_that_lie_elsewhere_than_their_seeds_are_a_fault(shift):
    found = faults(dropblock_with(lambda x: rescaled(1 - dropped_blocks(x, 0.1, 5)).roll(shift, (2, 3)), num_draws=8))
    where = "rows" if shift[0] else "columns"
    assert found == [f"units are dropped in other {where} than dropblock drops them in at stage1"]


def test_seeds_beyond_where_a_block_fits_are_a_fault():
    rate = 0.1 * 12**2 / 16**2  # so that the share is right
    found = faults(dropblock_with(lambda x: rescaled(1 - dropped_blocks(x, rate, 5, everywhere=True)), num_draws=8))
    assert "units are dropped in other rows than dropblock drops them in at stage1" in found


class Mistaken(TargetDrop2d):
    """TargetDrop with its channels or its windows chosen wrongly."""

    def __init__(self, channels, choose_channels=None, choose_places=None, **knobs):
        super().__init__(channels, **knobs)
        self.choose_channels, self.choose_places = choose_channels, choose_places

    def drop(self, x):
        num_samples, num_channels, height, width = x.shape
        num_dropped = self.num_targets(num_channels)
        ranked = self.scores(x.detach()).argsort(dim=1, descending=True, stable=True)
        channels = (
            ranked[:, :num_dropped] if self.choose_channels is None else self.choose_channels(ranked, num_dropped)
        )
        keep = torch.ones_like(x)
        for n in range(num_samples):
            for c in channels[n].tolist():
                at = int(x[n, c].argmax())
                row, col = divmod(at, width) if self.choose_places is None else self.choose_places(x[n, c])
                keep[n, c, max(0, row - 1) : row + 2, max(0, col - 1) : col + 2] = 0
        keep = keep * height * width / keep.sum(dim=(2, 3), keepdim=True)
        return x * keep, (keep == 0).sum()


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ({"choose_channels": lambda ranked, k: ranked[:, -k:]}, "100 % of the maps that lose units are not those"),
        (
            {"choose_channels": lambda ranked, k: torch.arange(k).expand(len(ranked), k)},
            r"\d+(\.\d+)? % of the maps that",
        ),
        (
            {"choose_places": lambda m: divmod(int(m.t().argmax()), 16)},
            r"\d+(\.\d+)? % of the maps that lose units keep the peak",
        ),
        (
            {"choose_places": lambda m: divmod(int(m.argmin()), 16)},
            r"\d+(\.\d+)? % of the maps that lose units keep the peak",
        ),
        ({"choose_places": lambda m: (0, 0)}, r"\d+(\.\d+)? % of the maps that lose units keep the peak"),
    ],
    ids=["bottom-K", "first-K", "swapped axes", "the minimum", "the corner"],
)
def test_other_targets_than_those_of_the_attention_and_its_peaks_are_a_fault(mistake, text):
    for wrong in ({}, mistake):
        model, insertion = network("targetdrop", drop_ratio=0.25, block_size=3)
        torch.manual_seed(1)
        plant(model, Mistaken(8, drop_ratio=0.25, block_size=3, **wrong))
        found = faults(audit_of(model, insertion))
        if not wrong:
            assert found == []
    assert len(found) == 1
    assert re.match(text, found[0])


def test_samples_that_share_their_targets_are_a_note_with_the_number_of_channels():
    model, insertion = network("targetdrop", drop_ratio=0.25, block_size=3)
    found = [note for note in notes(audit_of(model, insertion)) if "of the samples have the target channels" in note]
    assert found
    for note in found:
        assert re.match(
            r"\d+ % of the samples have the target channels of the first sample of their batch; at most \d of 8 chan",
            note,
        )
    model, insertion = network("targetdrop", drop_ratio=0.25, block_size=3, attention="random")
    assert not [note for note in notes(audit_of(model, insertion)) if "target channels" in note]


def test_a_layer_that_keeps_no_mean_on_purpose_is_healthy():
    assert audit_of(*network("weighted_channel_dropout")).faults == []
    assert isinstance(network("weighted_channel_dropout")[1].layers["stage1"], Regularizer)


def test_the_audit_names_nothing_in_a_layer_that_is_what_it_claims():
    model, insertion = network("dropblock", p=0.1, block_size=5, schedule="constant")
    plant(model, DropBlock(0.1, 5))
    audited = audit(model, insertion, [(torch.randn(8, 3, 16, 16), torch.arange(8) % 5) for _ in range(8)], num_draws=8)
    assert audited.faults == []
