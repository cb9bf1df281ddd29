"""AttentionDrop against a plain loop: blocks round some units of high attention are damped by 1 - A, not zeroed."""

import math

import pytest
import torch

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.attentiondrop import AttentionDropConfig
from tdbench.regularizers.attentiondrop.layer import AttentionDrop, dense_mask
from tests.oracles import attentiondrop as oracle


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def multiplier(out, x):
    """Return what each unit was multiplied by: the mask times its scale."""
    return out.double() / x.double()


@pytest.fixture(params=["sparse", "dense"])
def form(request, monkeypatch):
    """Run the test with the mask that a CPU builds, and with the one of all other devices."""
    if request.param == "dense":
        monkeypatch.setattr("tdbench.regularizers.attentiondrop.layer.sparse_mask", dense_mask)
    return request.param


@pytest.mark.parametrize(("p", "threshold", "size"), [(1.0, 0.8, 1), (1.0, 0.8, 3), (0.9, 0.5, 5), (0.3, 0.95, 3)])
@pytest.mark.parametrize("shape", [(2, 6, 9, 7), (1, 2, 3, 3), (3, 1, 4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_draws_give_the_output_of_the_oracle(monkeypatch, form, layout, shape, p, threshold, size):
    x = (positive_map(*shape) - 1).to(memory_format=layout)  # of both signs
    draws = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(torch, "rand", lambda *shape, device: draws)
    monkeypatch.setattr(
        "tdbench.regularizers.attentiondrop.layer.bernoulli_positions",
        lambda length, rate: (draws < rate).flatten().nonzero().flatten(),
    )
    out, num_dropped = AttentionDrop(p, threshold, size).drop(x)
    expected, mask = oracle.attention_drop(x, draws, p, threshold, size)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    assert num_dropped == (mask == 0).sum()


def test_the_oracle_s_cases_pick_something_and_keep_something():
    x, draws = positive_map(2, 6, 9, 7), torch.rand(2, 6, 9, 7, generator=torch.Generator().manual_seed(2))
    touched = [oracle.attention_drop(x, draws, *knobs)[1] < 1 for knobs in ((1.0, 0.8, 3), (0.9, 0.5, 5))]
    assert all(0 < mask.sum() < mask.numel() for mask in touched)


def test_only_candidates_are_touched_and_at_full_strength_and_size_one_all_of_them(form):
    x = positive_map(8, 8, 10, 10)
    torch.manual_seed(0)
    ratio = multiplier(AttentionDrop(1.0, 0.8, 1)(x), x)
    touched = ratio < ratio.max() * (1 - 1e-6)
    assert torch.equal(touched, oracle.attention(x) > 0.8)


def test_a_touched_unit_is_multiplied_by_one_minus_its_attention_and_the_others_by_the_scale_alone():
    x = positive_map(8, 8, 10, 10)
    torch.manual_seed(0)
    ratio = multiplier(AttentionDrop(1.0, 0.8, 5)(x), x)
    relative, attention = ratio / ratio.max(), oracle.attention(x)
    untouched, damped = (relative - 1).abs() < 1e-5, (relative - (1 - attention)).abs() < 1e-5
    assert (untouched | damped).all()
    soft = damped & (attention > 0.1) & (attention < 0.9)
    assert soft.any()


def test_what_is_touched_lies_in_a_block_round_a_candidate_of_the_same_channel(form):
    x, size = positive_map(4, 6, 12, 12), 3
    torch.manual_seed(0)
    ratio = multiplier(AttentionDrop(1.0, 0.95, size)(x), x)
    attention = oracle.attention(x)
    touched = ratio < ratio.max() * (1 - 1e-6)
    assert touched.any()
    for n, c, row, col in touched.nonzero().tolist():
        near = attention[n, c, max(0, row - 1) : row + 2, max(0, col - 1) : col + 2]
        assert (near > 0.95).any()


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_sum_of_the_mask_times_its_scale_is_the_number_of_units(size):
    x = positive_map(8, 8, 10, 10)
    torch.manual_seed(0)
    ratio = multiplier(AttentionDrop(1.0, 0.6, size)(x), x)
    assert float(ratio.sum()) == pytest.approx(x.numel(), rel=1e-6)
    assert ratio.max() > 1


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_a_candidate_is_picked_with_probability_p_over_the_area_of_a_block(form, strength):
    """One channel per position has A = 1, and a block of it shows as the zero at the picked unit itself."""
    layer, num_samples = AttentionDrop(0.9, 0.99, 3), 3000
    layer.strength = strength
    x = torch.full((num_samples, 2, 7, 7), 1.0)
    x[:, 0, 3, 3] = 2.0  # the only candidate of the sample; all other positions are constant over the channels, A = 0
    torch.manual_seed(0)
    rate = 0.9 * strength / 9
    picked = float((layer(x)[:, 0, 3, 3] == 0).double().mean())
    assert abs(picked - rate) <= 5 * math.sqrt(rate * (1 - rate) / num_samples)


def test_equal_channels_have_no_attention_and_stay_as_they_are(form):
    x = positive_map(2, 1, 6, 6)
    for constant in (x, x.expand(2, 4, 6, 6)):
        assert torch.equal(AttentionDrop(1.0, 0.0, 1)(constant), constant)


def test_the_defaults_are_those_of_the_public_code():
    config = AttentionDropConfig()
    assert (config.p, config.threshold, config.block_size, config.schedule) == (0.1, 0.8, 5, "linear")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"p": 1.5}, "p must be between 0 and 1, got 1.5"),
        ({"p": -0.1}, "p must be between 0 and 1, got -0.1"),
        ({"threshold": 2}, "threshold must be between 0 and 1, got 2"),
        ({"threshold": -1}, "threshold must be between 0 and 1, got -1"),
        ({"block_size": 0}, "block_size must be odd and at least 1, got 0"),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs, message):
    with pytest.raises(ConfigError, match=f"regularizer.{message}"):
        load_config(overrides={"regularizer": "attentiondrop", **knobs})
    (field,) = knobs
    with pytest.raises(ValueError, match=f"{field} must be .*, got {knobs[field]}"):
        AttentionDrop(**knobs)


def test_an_even_block_is_refused_by_the_layer():
    with pytest.raises(ValueError, match="block_size must be odd and at least 1, got 4"):
        AttentionDrop(block_size=4)


def test_an_even_block_is_refused_where_the_configuration_is_read():
    with pytest.raises(ConfigError, match="block_size must be odd and at least 1, got 4"):
        load_config(overrides={"regularizer": "attentiondrop", "block_size": 4})
