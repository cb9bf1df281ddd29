"""SpatialDropout against torch's Dropout2d: a map is dropped whole or kept whole, each by itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom, chi2

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.spatial_dropout import SpatialDropoutConfig
from tdbench.regularizers.spatial_dropout.layer import SpatialDropout


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def five_sigma(rate, n):
    return 5 * math.sqrt(rate * (1 - rate) / n)


def test_a_map_is_dropped_whole_or_kept_whole():
    torch.manual_seed(0)
    dropped = (SpatialDropout(0.3)(positive_map(32, 16, 5, 4)) == 0).flatten(2)
    assert torch.equal(dropped.any(dim=2), dropped.all(dim=2))
    assert 0 < dropped.sum() < dropped.numel()


@pytest.mark.parametrize("layer", [SpatialDropout(0.3), lambda x: F.dropout2d(x, 0.3)], ids=["ours", "torch"])
def test_what_is_kept_is_divided_by_one_minus_p_as_in_torch(layer):
    x = positive_map(32, 16, 5, 4)
    torch.manual_seed(0)
    out = layer(x)
    torch.testing.assert_close(out, (out != 0) * x / 0.7)


@pytest.mark.parametrize("layer", [SpatialDropout(0.3), lambda x: F.dropout2d(x, 0.3)], ids=["ours", "torch"])
def test_the_number_of_dropped_maps_of_a_sample_is_binomial_as_in_torch(layer):
    n, num_channels = 20000, 6
    torch.manual_seed(0)
    num_dropped = (layer(torch.ones(n, num_channels, 1, 1)) == 0).sum(dim=(1, 2, 3))
    observed = num_dropped.bincount(minlength=num_channels + 1).double()
    expected = n * torch.tensor([binom.pmf(k, num_channels, 0.3) for k in range(num_channels + 1)])
    assert ((observed - expected) ** 2 / expected).sum() <= chi2.isf(1e-6, num_channels)


def test_each_channel_is_dropped_as_often_as_the_others():
    n, p = 20000, 0.2
    torch.manual_seed(0)
    shares = (SpatialDropout(p)(torch.ones(n, 6, 1, 1)) == 0).double().mean(dim=(0, 2, 3))
    assert ((shares - p).abs() <= five_sigma(p, n)).all()


def test_the_mean_over_many_draws_is_the_input():
    p, n, x = 0.3, 4000, positive_map(1, 4, 3, 3)
    torch.manual_seed(0)
    mean = SpatialDropout(p)(x.expand(n, 4, 3, 3)).double().mean(dim=0)
    assert ((mean - x[0]).abs() <= 5 * x[0] * math.sqrt(p / (1 - p) / n)).all()


def test_dropping_everything_gives_zeros_and_no_nan():
    assert torch.equal(SpatialDropout(1)(positive_map(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_half_the_strength_is_half_the_rate_and_its_own_scale():
    layer = SpatialDropout(0.6)
    layer.strength = 0.5
    torch.manual_seed(0)
    out = layer(torch.ones(5000, 4, 1, 1))
    assert abs(float((out == 0).double().mean()) - 0.3) <= five_sigma(0.3, out.numel())
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.7))


def test_the_default_drops_a_tenth_of_the_maps_from_the_first_step_on():
    config = SpatialDropoutConfig()
    assert (config.p, config.schedule) == (0.1, "constant")


@pytest.mark.parametrize(("p", "rule"), [(-0.1, "between 0 and 1"), (1.5, "between 0 and 1")])
def test_a_rate_that_is_no_probability_is_refused(p, rule):
    with pytest.raises(ConfigError, match=f"regularizer.p must be {rule}, got {p}"):
        load_config(overrides={"regularizer": "spatial_dropout", "p": p})
    with pytest.raises(ValueError, match=f"p must be between 0 and 1, got {p}"):
        SpatialDropout(p)
