"""An audit finds each way in which a regularizer is not what its configuration says, and nothing in a healthy one."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tdbench import insert
from tdbench.audit.measure import read
from tdbench.audit.network import audit_network as audit
from tdbench.audit.site import Mask
from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.regularizers.base import Regularizer
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.dropblock.layer import DropBlock
from tdbench.regularizers.registry import method_names
from tdbench.regularizers.spatial_dropout.layer import SpatialDropout


class Stage(nn.Module):
    """A convolution, batch norm and ReLU."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(in_channels, channels, 3, stride, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Network(nn.Module):
    """Maps of 16×16 and 4×4; `skips` says in which mode stage2 is left out."""

    def __init__(self, skips=None):
        super().__init__()
        self.stage1, self.stage2 = Stage(3, 8, 1), Stage(8, 8, 4)
        self.classifier = nn.Linear(8, 5)
        self.skips = skips

    def forward(self, x):
        x = self.stage1(x)
        if self.skips != self.training:
            x = self.stage2(x)
        return self.classifier(x.mean(dim=(2, 3)))


class Planted(nn.Module):
    """Multiplies by what a function makes of the map, in training or always."""

    def __init__(self, mask_of, always=False):
        super().__init__()
        self.mask_of, self.always = mask_of, always

    def forward(self, x):
        return x * self.mask_of(x.detach()) if self.training or self.always else x


def network(method, sites=("stage1",), skips=None, **knobs):
    torch.manual_seed(0)
    model = Network(skips)
    return model, insert(model, method, sites, image_shape=(3, 16, 16), **knobs)


def audit_of(model, insertion, num_batches=8, num_draws=2):
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 5) for _ in range(num_batches)]
    return audit(model, insertion, batches, num_draws=num_draws)


def plant(model, layer, site="stage1"):
    """Put a layer where the configured one stands."""
    model.get_submodule(site).tdbench_regularizer = layer


def draw_of(num_dropped):
    """Return a draw that drops so many of four units."""
    mask = torch.ones(1, 1, 2, 2)
    mask.view(-1)[:num_dropped] = 0
    return read(mask, torch.ones(1, 1, 2, 2), mask)


def faults(audited):
    return [str(fault).removeprefix("fault: ") for fault in audited.faults]


def notes(audited, of_batch_norm=False):
    """Return the notes, without those of a batch norm behind the layer unless they are asked for."""
    texts = [str(note).removeprefix("note: ") for note in audited.findings if note.level == "note"]
    return [text for text in texts if of_batch_norm or not text.startswith("a batch norm follows")]


def is_healthy(audited):
    return not audited.faults and not notes(audited)


def dropped_blocks(x, p, size, shared=False, everywhere=False):
    """Draw blocks of `size`, their seeds where a block fits or everywhere; 1 = dropped."""
    channels, room = 1 if shared else x.shape[1], 16 - size + 1
    rate = p / size**2 * 16**2 / room**2
    if everywhere:
        return F.max_pool2d((torch.rand(len(x), channels, 16, 16) < rate).float(), size, stride=1, padding=size // 2)
    seeds = (torch.rand(len(x), channels, room, room) < rate).float()
    return F.max_pool2d(F.pad(seeds, (size - 1,) * 4), size, stride=1)


def rescaled(keep):
    return keep * keep.numel() / keep.sum()


def dropblock_with(mask_of, block_size=5):
    """Audit a network in which something else stands where DropBlock of p = 0.1 is configured."""
    model, insertion = network("dropblock", p=0.1, block_size=block_size, schedule="constant")
    plant(model, Planted(mask_of))
    return audit_of(model, insertion)


@pytest.mark.parametrize("method", method_names())
def test_every_method_is_healthy_in_its_default_settings(method):
    sites = {"cutout": "input", "drop_path": "stage2"}.get(method, "stage1")
    assert audit_of(*network(method, (sites,))).faults == []


def test_the_twin_of_the_planted_faults_is_healthy():
    audited = dropblock_with(lambda x: rescaled(1 - dropped_blocks(x, 0.1, 5)))
    assert is_healthy(audited)


def test_a_rate_of_zero_is_a_fault():
    assert faults(audit_of(*network("dropout", p=0))) == ["nothing was dropped: the layer is off at stage1"]


def test_a_layer_whose_hook_is_gone_is_never_called():
    model, insertion = network("dropout")
    model.stage1._forward_hooks.clear()
    assert faults(audit_of(model, insertion)) == ["the layer is never called at stage1"]


def test_a_layer_that_was_taken_out_is_never_called():
    model, insertion = network("dropout", ("stage1", "stage2"))
    insertion.remove()
    audited = audit_of(model, insertion)
    assert faults(audited) == ["the layer is never called at stage1, stage2"]
    assert [(row["dropped_pct"], row["ci95_low"], row["n"]) for row in audited.rows()] == [(None, None, None)] * 2


def test_a_layer_at_a_module_that_the_training_forward_skips_is_called_in_evaluation_only():
    audited = audit_of(*network("dropout", ("stage1", "stage2"), skips=True))
    assert faults(audited) == ["the layer is called in evaluation only at stage2"]
    assert [(site.calls_train, site.calls_eval) for site in audited.sites] == [(1, 1), (0, 1)]


def test_a_layer_that_evaluation_skips_is_no_fault():
    model, insertion = network("dropout", ("stage1", "stage2"))
    model.skips = False
    audited = audit_of(model, insertion)
    assert is_healthy(audited)
    assert audited.sites[1].eval_identity is None


def test_a_layer_that_stays_in_evaluation_mode_is_a_fault():
    model, insertion = network("dropout")
    model.stage1.train = lambda mode=True: model.stage1  # as with a frozen part
    model.stage1.tdbench_regularizer.eval()
    audited = audit_of(model, insertion)
    assert faults(audited) == ["the layer is left in evaluation mode while the network trains at stage1"]


def test_a_site_that_is_not_there_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"unknown site 'stage3'; did you mean stage2\? .*stage1"):
        network("dropout", ["stage3"])


@pytest.mark.parametrize("layer", [nn.Dropout2d(0.1), SpatialDropout(0.1)])
def test_whole_maps_in_place_of_blocks_are_a_fault(layer):
    model, insertion = network("dropblock", p=0.1, block_size=5, schedule="constant")
    plant(model, layer)
    insertion.layers["stage1"] = layer
    assert faults(audit_of(model, insertion)) == [
        "whole maps are dropped where dropblock drops blocks of 5×5 at stage1"
    ]


def test_units_in_place_of_blocks_are_a_fault():
    model, insertion = network("dropblock", p=0.1, block_size=5, schedule="constant")
    plant(model, nn.Dropout(0.1))
    assert faults(audit_of(model, insertion)) == [
        "blocks are 1 units tall where a block of 5 is configured at stage1",
        "blocks are 1 units wide where a block of 5 is configured at stage1",
    ]


def test_blocks_in_place_of_whole_maps_are_a_fault():
    model, insertion = network("spatial_dropout")
    plant(model, DropBlock(0.1, 3))
    assert faults(audit_of(model, insertion)) == [
        "parts of maps are dropped where spatial_dropout drops whole maps at stage1"
    ]


def test_an_even_block_that_grows_by_one_is_a_fault():
    model, insertion = network("dropblock", p=0.1, block_size=4, schedule="constant")
    plant(model, Planted(lambda x: rescaled(1 - dropped_blocks(x, 0.1, 5))))
    assert faults(audit_of(model, insertion)) == [
        "blocks are 5 units tall where a block of 4 is configured at stage1",
        "blocks are 5 units wide where a block of 4 is configured at stage1",
    ]


def test_one_mask_for_all_channels_is_a_fault():
    audited = dropblock_with(lambda x: rescaled(1 - dropped_blocks(x, 0.1, 5, shared=True)))
    assert faults(audited) == ["one mask serves all channels where dropblock has one per channel at stage1"]


def test_a_mask_for_each_channel_is_a_fault_where_the_method_shares_one():
    model, insertion = network("corrdrop", p=0.1, block_size=5, schedule="constant")
    plant(model, DropBlock(0.1, 5))
    assert faults(audit_of(model, insertion)) == [
        "each channel has a mask of its own where corrdrop has one for all at stage1"
    ]


def test_one_mask_for_the_whole_batch_is_a_fault():
    audited = dropblock_with(lambda x: rescaled(1 - dropped_blocks(x[:1], 0.1, 5)))
    assert faults(audited) == ["one mask serves the whole batch where dropblock has one per sample at stage1"]


def test_no_rescaling_is_a_fault():
    audited = dropblock_with(lambda x: 1 - dropped_blocks(x, 0.1, 5))
    assert faults(audited) == ["what is kept is not scaled up where dropblock scales it at stage1"]


def test_rescaling_is_a_fault_where_the_method_does_not():
    model, insertion = network("targetdrop", rescale="none")
    assert faults(audit_of(model, insertion)) == []
    plant(model, insert(Network(), "targetdrop", ["stage1"], rescale="layer").layers["stage1"])
    (fault,) = faults(audit_of(model, insertion))
    assert fault.startswith("what is kept is scaled by up to 1.0")


def test_a_share_far_from_the_nominal_one_is_a_fault():
    """Seeds over the whole map, at the rate of seeds that fall only where a block fits, as in public code."""
    audited = dropblock_with(lambda x: rescaled(1 - dropped_blocks(x, 0.1, 13, everywhere=True)), block_size=13)
    *places, share = faults(audited)
    assert places == [
        f"units are dropped in other {name} than dropblock drops them in at stage1" for name in ("rows", "columns")
    ]
    assert re.fullmatch(r"[56]\d\.\d % of the units are dropped where 10 % is nominal at stage1", share)


def test_a_share_that_is_a_little_off_is_a_note():
    audited = dropblock_with(lambda x: rescaled(1 - dropped_blocks(x, 0.13, 5)))
    assert audited.faults == []
    assert [note for note in notes(audited) if "of the units are dropped where 10 % is nominal at stage1" in note]


def test_a_linear_schedule_that_never_ramps_is_a_fault():
    model, insertion = network("dropblock", p=0.1, block_size=5)
    assert is_healthy(audit_of(model, insertion))
    insertion.set_progress = lambda progress: None
    (fault,) = faults(audit_of(model, insertion))
    drops = r"[89]\.\d+ % of the units at the start and [89]\.\d+ % at the end of training at stage1"
    assert re.fullmatch(f"the schedule never ramps: it is linear, and the layer drops {drops}", fault)


def test_a_strength_that_stays_at_zero_is_a_fault():
    model, insertion = network("dropblock", p=0.1, block_size=5)
    insertion.set_progress(0.0)
    insertion.set_progress = lambda progress: None
    assert faults(audit_of(model, insertion)) == ["nothing was dropped: the layer is off at stage1"]


@pytest.mark.parametrize("method", ["dropblock", "targetdrop"])
def test_a_block_that_covers_the_map_is_a_fault_and_a_larger_one_the_same(method):
    audited = audit_of(*network(method, ("stage2",), block_size=7))
    assert faults(audited) == ["block 7 covers the whole 4×4 map at stage2"]
    assert "k = 7 and k = 9 are the same at stage2" in notes(audited)


def test_a_cell_that_is_too_large_for_the_map_is_cut_to_one_less_and_measured_so():
    audited = audit_of(*network("corrdrop", ("stage2",), block_size=7, p=0.5))
    assert audited.faults == []
    assert "a block of 7 is wider than the 4×4 map at stage2" in notes(audited)
    assert audited.rows()[0]["effective_block"] == "3x3"


def test_a_block_that_covers_the_map_in_every_draw_is_no_less_a_fault():
    audited = audit_of(*network("cutout", ("stage1", "stage2"), size=32))
    assert faults(audited) == [
        "block 32 covers the whole 16×16 map at stage1",
        "block 32 covers the whole 4×4 map at stage2",
    ]
    assert "every unit was dropped, and nothing passes at stage1, stage2" in notes(audited)


def test_a_block_that_is_wider_than_the_map_without_covering_it_always_is_a_note():
    audited = audit_of(*network("targetdrop", ("stage1", "stage2"), block_size=5))
    assert audited.faults == []
    assert "a block of 5 is wider than the 4×4 map at stage2" in notes(audited)


def test_a_layer_that_drops_in_evaluation_is_a_fault():
    model, insertion = network("dropout", p=0.1)
    plant(model, Planted(lambda x: (torch.rand_like(x) >= 0.1) / 0.9, always=True))
    assert faults(audit_of(model, insertion)) == ["the layer changes its input in evaluation at stage1"]


def test_a_layer_that_counts_wrongly_is_a_fault():
    class Miscounting(DropBlock):
        def drop(self, x):
            out, num_dropped = super().drop(x)
            return out, num_dropped // 2

    model, insertion = network("dropblock", p=0.1, block_size=5, schedule="constant")
    plant(model, Miscounting(0.1, 5))
    (fault,) = faults(audit_of(model, insertion))
    assert fault.startswith("the layer counts 4.")


def test_a_layer_that_lets_no_gradient_pass_is_a_fault():
    model, insertion = network("dropout")
    plant(model, Planted(lambda x: x))
    model.stage1.tdbench_regularizer.forward = lambda x: (x * (torch.rand_like(x) >= 0.1) / 0.9).detach()
    assert "no gradient passes through the layer at stage1" in faults(audit_of(model, insertion))


def test_own_weights_without_a_gradient_are_a_fault():
    model, insertion = network("targetdrop", attention="se_ste")
    audited = audit_of(model, insertion)
    assert (audited.sites[0].gradient, audited.faults) == ("yes", [])
    model, insertion = network("targetdrop", attention="se")
    plant(model, copy.deepcopy(model.stage1.tdbench_regularizer))
    model.stage1.tdbench_regularizer.gain = nn.Parameter(torch.ones(1))  # nothing reads it
    assert faults(audit_of(model, insertion)) == ["no gradient reaches the layer's own parameters at stage1"]


def test_the_untrained_attention_is_a_note():
    audited = audit_of(*network("targetdrop"))
    assert audited.faults == []
    assert audited.sites[0].gradient == "none"
    assert [note for note in notes(audited) if "receive no gradient and stay at their initial values" in note]


def test_the_baseline_claims_nothing_and_drops_nothing():
    audited = audit_of(*network("none"))
    assert [str(finding) for finding in audited.findings] == ["note: the baseline drops nothing at stage1"]


def test_a_layer_without_claims_is_measured():
    class Halving(Regularizer):
        def drop(self, x):
            keep = torch.rand_like(x) >= 0.5
            return x * keep, (~keep).sum()

    class Noise(Regularizer):
        def drop(self, x):
            return self.untouched(x + torch.randn_like(x))

    class Nothing(Regularizer):
        def drop(self, x):
            return self.untouched(x)

    class Mine(RegularizerConfig):
        name: str = "mine"
        layer: type[Regularizer]

        def build(self, channels, depth=1.0):
            return self.layer()

    audited = audit_of(*network(Mine(layer=Halving)))
    (row,) = audited.rows()
    assert row["dropped_pct"] == pytest.approx(50, abs=1)
    assert (row["random"], row["output_scale"], row["eval_identity"], row["nominal_pct"]) == (True, 1.0, True, None)
    assert audited.faults == []
    (note,) = notes(audited)
    assert re.match(
        r"kept scale × \(1 − share dropped\) is 0\.[45]\d*, not 1: the mean of the map is another in training", note
    )
    audited = audit_of(*network(Mine(layer=Noise)))
    assert audited.faults == []
    assert any("not the input times a mask" in note for note in notes(audited))
    audited = audit_of(*network(Mine(layer=Nothing)))
    assert faults(audited) == ["nothing was dropped: the layer is off at stage1"]


def test_a_layer_that_takes_part_in_few_of_the_steps_is_not_off():
    audited = audit_of(*network("focused_dropout", participation=0.02), num_batches=2, num_draws=1)
    assert audited.faults == []
    assert notes(audited) == ["no unit was dropped in 2 draws, though the layer is not off at stage1"]


def test_dropping_everything_is_a_note():
    assert notes(audit_of(*network("dropout", p=1.0))) == ["every unit was dropped, and nothing passes at stage1"]


def test_sites_that_differ_strongly_in_their_share_are_a_note():
    audited = audit_of(*network("targetdrop", ("stage1", "stage2"), block_size=3, drop_ratio=0.25))
    assert [note for note in notes(audited) if note.startswith("stage2 drops ")]


def test_the_interval_is_that_of_student_over_batches():
    """By hand: shares 1/4, 1/2, 1/2, 3/4 have mean 1/2 and deviation 0.2041; t at 3 degrees is 3.182."""
    half = 3.182446 * 0.2041241 / 2
    mask = Mask(tuple((draw_of(dropped),) for dropped in (1, 2, 2, 3)), (), None, False, False)
    assert mask.interval() == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)
    assert Mask(((draw_of(0),), (draw_of(4),)), (), None, False, False).interval() == (0.0, 1.0)


def test_draws_of_one_batch_do_not_count_as_batches():
    once = Mask(tuple((draw_of(dropped),) for dropped in (1, 3)), (), None, False, False)
    often = Mask(tuple((draw_of(dropped),) * 50 for dropped in (1, 3)), (), None, False, False)
    assert once.interval() == often.interval()


def test_the_network_and_the_random_numbers_stay_as_they_were():
    model, insertion = network("dropblock", ("stage1", "stage2"), block_size=3)
    model.stage2.eval()
    insertion.meter(torch.device("cpu"))
    insertion.set_progress(0.5)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    audit_of(model, insertion)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())
    assert insertion.read_meter() == {"stage1": (0, 0), "stage2": (0, 0)}
    assert [layer.strength for layer in insertion.layers.values()] == [0.5, 0.5]


def test_one_batch_is_too_few():
    with pytest.raises(ConfigError, match="at least 2, for the interval of a share, got 1"):
        audit_of(*network("dropout"), num_batches=1)


class Swallows(nn.Module):
    def __init__(self, p: float = 0.5):
        super().__init__()

    def forward(self, x):
        return x * 0 if self.training else x


def test_a_layer_that_drops_everything_unasked_is_faulty_and_counted_as_such():
    model = build("resnet8", 10, 1)
    insertion = insert(model, Swallows, ["stage1", "stage2"], image_shape=(1, 32, 32))
    batches = [(torch.rand(8, 1, 32, 32), torch.arange(8))] * 2
    assert any(
        "every unit was dropped" in fault.text for fault in audit(model, insertion, batches, num_batches=2).faults
    )
    insertion.meter(torch.device("cpu"))
    model.train()(batches[0][0])
    for dropped, units in insertion.read_meter().values():
        assert dropped == units > 0
