"""CorrDrop against a plain loop: cells that correlate little with the others are likelier to go, in all channels."""

import math

import pytest
import torch

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.corrdrop import CorrDropConfig
from tdbench.regularizers.corrdrop.layer import CorrDrop
from tests.oracles import corrdrop as oracle


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def odd_one_out(num_samples):
    """Return maps of 2×2 cells of one unit, of which the first has nothing in common with the three others."""
    x = torch.zeros(num_samples, 2, 2, 2)
    x[:, 1] = 1
    x[:, :, 0, 0] = torch.tensor([1.0, 0.0])
    return x + 1e-3  # positive, so that zero means dropped


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 4, 10, 10), 5),
        ((3, 4, 12, 11), 5),
        ((2, 1, 6, 6), 3),
        ((2, 3, 7, 4), 2),
        ((2, 3, 4, 12), 6),
        ((2, 5, 4, 4), 5),
    ],
)
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_the_same_draws_give_the_output_of_the_oracle(monkeypatch, shape, size, p):
    x, generator = positive_map(*shape) - 0.8, torch.Generator().manual_seed(2)
    # The draws that protect a cell lie close to its probability on either side, so that a wrong one shows.
    chances = torch.tensor([oracle.softmax(oracle.cell_scores(sample.double(), size)) for sample in x])
    nudges = torch.where(torch.rand(chances.shape, generator=generator) < 0.5, -1e-4, 1e-4)
    draws = [chances * (1 + nudges), torch.rand(chances.shape, generator=generator)]
    keep = oracle.keep_mask(x, *draws, p, size)
    monkeypatch.setattr(torch, "rand_like", lambda _: draws.pop(0))
    out, num_dropped = CorrDrop(p, size).drop(x)
    torch.testing.assert_close(out.double(), x * keep * keep.numel() / keep.sum().clamp(min=1), rtol=1e-6, atol=0)
    assert num_dropped == (keep == 0).sum() * shape[1]


def test_each_cell_is_dropped_whole_or_kept_whole_and_alike_in_all_channels():
    torch.manual_seed(0)
    dropped = CorrDrop(0.3, 5)(positive_map(40, 3, 15, 10)) == 0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    cells = dropped[:, 0].unfold(1, 5, 5).unfold(2, 5, 5).flatten(3)
    assert torch.equal(cells.all(3), cells.any(3))
    assert cells.any()


# Measured on the public code: 0.166, 0.126, 0.130, 0.088 of the units with blocks of 5; 0.2 where they divide the map.
@pytest.mark.parametrize(
    ("side", "size", "share"),
    [
        (32, 5, 0.1672),
        (16, 5, 0.128),
        (8, 5, 0.128),
        (4, 5, 0.0889),
        (16, 4, 0.2),
        (8, 4, 0.2),
        (4, 2, 0.2),
        (8, 1, 0.2),
    ],
)
def test_the_share_of_dropped_units_is_that_of_the_public_code(side, size, share):
    n, layer = 4000, CorrDrop(0.2, size)
    torch.manual_seed(0)
    shares = (layer(positive_map(n, 2, side, side)) == 0).double().mean(dim=(1, 2, 3))
    bound = 5 * float(shares.std()) / math.sqrt(n)
    assert abs(float(shares.mean()) - oracle.gamma(side, side, 0.2, size)) <= bound < 0.03
    assert layer.nominal_share((2, side, side)) == pytest.approx(oracle.gamma(side, side, 0.2, size))
    assert share == pytest.approx(oracle.gamma(side, side, 0.2, size), abs=1e-4)


def test_more_cannot_be_dropped_than_is_not_protected():
    layer = CorrDrop(1.0, 4)
    torch.manual_seed(0)
    shares = (layer(positive_map(4000, 2, 8, 8)) == 0).double().mean(dim=(1, 2, 3))
    assert layer.nominal_share((2, 8, 8)) == 0.75
    assert abs(float(shares.mean()) - 0.75) <= 5 * float(shares.std()) / math.sqrt(4000)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_a_cell_unlike_the_others_is_dropped_more_often_as_the_oracle_expects(strength):
    n, layer, x = 20000, CorrDrop(0.3, 1), odd_one_out(20000)
    layer.strength = strength
    torch.manual_seed(0)
    often = (layer(x)[:, 0] == 0).flatten(1).double().mean(dim=0)
    # Softmax protects one of the four cells in the mean, and in so large a batch nearly so.
    protected = torch.tensor(oracle.softmax(oracle.cell_scores(x[0].double(), 1)))
    chances = (1 - protected) * oracle.gamma(2, 2, 0.3 * strength, 1) / (1 - 1 / 4)
    bounds = 5 * (chances * (1 - chances) / n).sqrt()
    assert ((often - chances).abs() <= bounds).all()
    assert chances[0] > chances[1:].max()
    if strength == 1:
        assert often[0] - bounds[0] > (often + bounds)[1:].max()


def test_the_mean_of_the_mask_times_its_scale_is_one_in_each_batch():
    x = torch.ones(16, 3, 12, 11)
    torch.manual_seed(0)
    for _ in range(5):
        out = CorrDrop(0.3, 5)(x)
        assert len(out.unique()) == 2
        assert abs(float(out.double().mean()) - 1) <= torch.finfo(torch.float32).eps  # the scale's own rounding


def test_a_dead_map_gives_zeros_and_no_nan():
    x = torch.zeros(4, 3, 10, 10)
    torch.manual_seed(0)
    assert torch.equal(CorrDrop(0.5, 5)(x), x)


def test_a_map_of_one_cell_is_dropped_at_the_nominal_share_too():
    n, layer = 2000, CorrDrop(0.2, 5)
    torch.manual_seed(0)
    share = float((layer(torch.ones(n, 1, 5, 5)) == 0).double().mean())
    assert layer.nominal_share((1, 5, 5)) == 0.2
    assert abs(share - 0.2) <= 5 * math.sqrt(0.2 * 0.8 / n)


def test_the_defaults_are_those_of_the_public_code():
    config = CorrDropConfig()
    assert (config.p, config.block_size, config.schedule) == (0.2, 5, "linear")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"p": 1.5}, "p must be between 0 and 1, got 1.5"),
        ({"p": -0.1}, "p must be between 0 and 1, got -0.1"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs, message):
    with pytest.raises(ConfigError, match=f"regularizer.{message}"):
        load_config(overrides={"regularizer": "corrdrop", **knobs})
    (field,) = knobs
    with pytest.raises(ValueError, match=f"{field} must be .*, got {knobs[field]}"):
        CorrDrop(**knobs)
