"""What a layer drops is seen as the layer did it, on any network, and the network is left as it was."""

import pytest
import torch
from torch import nn

from tdbench import load_config
from tdbench.data.batches import TestBatches
from tdbench.data.sources import load_data
from tdbench.errors import ConfigError, FolderError
from tdbench.regularizers.registry import method_names
from tdbench.show.drops import observe_drops
from tdbench.training.network import seeded_insertion, seeded_network
from tdbench.training.setup import Setup

NUM_KEPT = 3


def config_of(method, **overrides):
    precise = {"precision": "fp32", "hardware.memory_format": "contiguous", "batch_size": 16}
    return load_config(overrides={"regularizer": method, **precise, **overrides})


@pytest.fixture(scope="module")
def data():
    return load_data(config_of("none").data, seed=0)


@pytest.fixture(scope="module")
def images(data):
    batches = TestBatches(data, config_of("none"), torch.device("cpu"), torch.contiguous_format)
    return next(iter(batches))[0][:16]


def observe(config, data, images, model=None):
    setup = Setup(config, data)
    setup.model = model or setup.model
    return observe_drops(setup, config, images, NUM_KEPT)


@pytest.mark.parametrize("method", method_names())
def test_the_marked_units_are_those_that_the_layer_zeroes_in_a_plain_training_forward(method, data, images):
    config = config_of(method, seed=3)
    drops = observe(config, data, images)
    model, _ = seeded_network(config, data)
    insertion = seeded_insertion(model, config, data.image_shape)
    insertion.meter(torch.device("cpu"))
    calls = []
    insertion.layers[drops.site].register_forward_hook(lambda layer, args, out: calls.append((args[0], out)))
    model.train()(images)
    ((x, out),) = calls
    num_dropped, num_units = insertion.read_meter()[drops.site]
    assert drops.dropped_pct == pytest.approx(100 * num_dropped / num_units)
    assert torch.equal(drops.maps, x[:NUM_KEPT])
    nonzero = x[:NUM_KEPT] != 0
    assert torch.equal(drops.dropped & nonzero, (out[:NUM_KEPT] == 0) & nonzero)
    torch.testing.assert_close(drops.maps * drops.gain, out[:NUM_KEPT].detach())


def test_dead_units_are_marked_too():
    config = config_of("spatial_dropout", p=0.5, sites="stage1.block1.conv1")
    data = load_data(config.data, seed=0)
    drops = observe(config, data, torch.zeros(8, 1, 32, 32))
    whole = drops.dropped.double().mean(dim=(2, 3))
    assert set(whole.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("attention", ["se", "se_ste", "gap", "random"])
def test_the_most_attended_channels_are_those_that_targetdrop_drops_in(attention, data, images):
    drops = observe(config_of("targetdrop", gamma=0.25, attention=attention), data, images)
    num_dropped = 4  # of stage1's 16 channels
    top = drops.scores.argsort(dim=1, descending=True, stable=True)[:, :num_dropped]
    dropped_in = drops.dropped.any(dim=(2, 3))
    assert [sorted(row) for row in top.tolist()] == [row.nonzero().flatten().tolist() for row in dropped_in]
    assert drops.has_attention


def test_targetdrop_hides_the_peak_of_each_map_that_it_drops_in(data, images):
    drops = observe(config_of("targetdrop"), data, images)
    for sample, channel in drops.dropped.any(dim=(2, 3)).nonzero().tolist():
        peak = drops.maps[sample, channel].argmax()
        assert drops.dropped[sample, channel].flatten()[peak]


def test_only_a_soft_mask_damps(data, images):
    soft = observe(config_of("attentiondrop", p=1.0), data, images)
    weakened = (soft.maps > 0) & (soft.maps * soft.gain < soft.maps) & ~soft.dropped
    assert weakened.any()
    assert torch.equal(soft.damped & (soft.maps > 0), weakened)
    assert not observe(config_of("targetdrop"), data, images).damped.any()


@pytest.mark.parametrize(
    ("method", "site"), [("targetdrop", "stage1"), ("cutout", "input"), ("drop_path", "stage3.block1.branch")]
)
def test_a_method_is_looked_at_where_it_belongs(method, site, data, images):
    assert observe(config_of(method), data, images).site == site


def test_the_layers_come_out_again(data, images):
    config = config_of("targetdrop")
    model, _ = seeded_network(config, data)
    names = [name for name, _ in model.named_modules()]
    drops = observe(config, data, images, model)
    assert [name for name, _ in model.named_modules()] == names
    assert torch.equal(observe(config, data, images, model).dropped, drops.dropped)


def test_maps_of_one_pixel_are_refused(data, images):
    pool = nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), pool, nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(ConfigError, match="'1' puts out maps of 1×1"):
        observe(config_of("targetdrop", sites="1"), data, images, model)
    assert list(pool.children()) == []


def test_a_network_that_diverged_has_nothing_to_see(data, images):
    config = config_of("targetdrop")
    model, _ = seeded_network(config, data)
    with torch.no_grad():
        model.stem[0].weight.fill_(torch.nan)
    with pytest.raises(FolderError, match="stage1 are not finite"):
        observe(config, data, images, model)
    assert not any("tdbench" in name for name, _ in model.named_modules())
