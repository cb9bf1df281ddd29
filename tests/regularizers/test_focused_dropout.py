"""FocusedDropout against a plain loop: what the strongest channel attends to is kept in all of them."""

import math

import pytest
import torch
from scipy.stats import chi2

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.focused_dropout import FocusedDropoutConfig
from tdbench.regularizers.focused_dropout.layer import FocusedDropout
from tests.oracles import focused_dropout as oracle


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.01


def ramps(num_samples, num_steps=1000):
    """Return maps whose kept share tells r: 1/n, 2/n, ..., 1 in a row."""
    return (torch.arange(1, num_steps + 1) / num_steps).expand(num_samples, 1, 1, num_steps)


@pytest.mark.parametrize("r", [0.0, 0.3, 0.55, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(4, 6, 9, 7), (3, 1, 4, 4), (2, 5, 1, 1)])
def test_a_step_that_takes_part_gives_the_output_of_the_oracle_bit_for_bit(shape, r):
    x = positive_map(*shape)
    assert torch.equal(FocusedDropout(1.0, r, r)(x), oracle.focused_dropout(x, r))  # nothing is rescaled


def test_the_same_positions_are_dropped_in_all_channels():
    torch.manual_seed(0)
    dropped = FocusedDropout(1.0)(positive_map(8, 6, 9, 7)) == 0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert 0 < dropped.sum() < dropped.numel()


def test_the_reference_is_the_channel_with_the_largest_mean_not_the_largest_peak():
    x = torch.full((1, 2, 1, 3), 0.1)
    x[0, 0, 0] = torch.tensor([5.0, 0.1, 0.1])  # mean 1.73, the largest peak
    x[0, 1, 0] = torch.tensor([0.1, 4.0, 4.0])  # mean 2.7
    assert (FocusedDropout(1.0, 0.5, 0.5)(x)[0, 0, 0] != 0).tolist() == [False, True, True]


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.6), (0.6, 0.9)])
def test_r_is_uniform_in_its_range_and_each_sample_has_its_own(low, high):
    n, num_bins = 5000, 10
    torch.manual_seed(0)
    out = FocusedDropout(1.0, low, high)(ramps(n))
    r = (out == 0).double().mean(dim=(1, 2, 3))
    assert low - 1e-3 <= r.min()
    assert r.max() <= high + 1e-3
    observed = ((r - low) / (high - low) * num_bins).long().clamp(0, num_bins - 1).bincount(minlength=num_bins).double()
    # The ramp's resolution moves a boundary by up to a thousandth of a map: far less than the deviation of a bin.
    assert ((observed - n / num_bins) ** 2 / (n / num_bins)).sum() <= chi2.isf(1e-6, num_bins - 1)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_tenth_of_the_steps_take_part_and_a_rising_schedule_raises_it(strength):
    n, layer, x = 3000, FocusedDropout(), ramps(1, 4)
    layer.strength = strength
    torch.manual_seed(0)
    share = sum(not torch.equal(layer(x), x) for _ in range(n)) / n
    rate = 0.1 * strength
    assert abs(share - rate) <= 5 * math.sqrt(rate * (1 - rate) / n)


def test_a_step_takes_part_with_all_of_its_samples_or_with_none():
    layer, x, seen = FocusedDropout(0.5), ramps(16, 4), set()
    torch.manual_seed(0)
    for _ in range(50):
        touched = (layer(x) == 0).flatten(1).any(dim=1)
        assert touched.all() or not touched.any()
        seen.add(bool(touched.any()))
    assert seen == {True, False}


def test_the_defaults_are_those_of_the_paper():
    config = FocusedDropoutConfig()
    assert (config.participation, config.low, config.high, config.schedule) == (0.1, 0.3, 0.6, "constant")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"participation": 1.5}, "participation must be at most 1, got 1.5"),
        ({"participation": 0}, "participation must be greater than 0, got 0"),
        ({"low": -0.1}, "low must be between 0 and 1, got -0.1"),
        ({"high": 1.1}, "high must be between 0 and 1, got 1.1"),
        ({"low": 0.7}, "low must be at most high = 0.6, got 0.7"),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides={"regularizer": "focused_dropout", **knobs})
    (field,) = knobs
    with pytest.raises(ValueError, match=f"{field} must be .*, got {knobs[field]}"):
        FocusedDropout(**knobs)
