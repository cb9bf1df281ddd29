"""Dropout against torch's own: each unit by itself, what is kept divided by 1 - p, so that the mean stays."""

import math

import pytest
import torch
import torch.nn.functional as F

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.dropout import DropoutConfig
from tdbench.regularizers.dropout.layer import Dropout


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def five_sigma(rate, n):
    return 5 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_one_seed_gives_what_torch_gives(p):
    x = positive_map(4, 3, 9, 7)
    torch.manual_seed(0)
    out = Dropout(p)(x)
    torch.manual_seed(0)
    assert torch.equal(out, F.dropout(x, p))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 4, 5)])
def test_a_unit_is_either_zero_or_divided_by_what_is_kept_in_a_map_of_any_shape(shape):
    x = positive_map(*shape)
    torch.manual_seed(0)
    out = Dropout(0.3)(x)
    torch.testing.assert_close(out, (out != 0) * x / 0.7)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_the_share_of_zeros_is_p(p):
    torch.manual_seed(0)
    x = torch.ones(8, 16, 50, 50)
    share = float((Dropout(p)(x) == 0).double().mean())
    assert abs(share - p) <= five_sigma(p, x.numel())


def test_neighbouring_units_are_dropped_independently():
    torch.manual_seed(0)
    dropped = Dropout(0.3)(torch.ones(8, 16, 50, 50)) == 0
    for dim in range(4):
        pairs = dropped.narrow(dim, 1, dropped.shape[dim] - 1) & dropped.narrow(dim, 0, dropped.shape[dim] - 1)
        # Overlapping pairs are correlated: at most twice the variance of as many independent ones.
        assert abs(float(pairs.double().mean()) - 0.09) <= math.sqrt(2) * five_sigma(0.09, pairs.numel())


def test_the_mean_over_many_draws_is_the_input():
    p, n, x = 0.3, 4000, positive_map(1, 4, 3, 3)
    torch.manual_seed(0)
    mean = Dropout(p)(x.expand(n, 4, 3, 3)).double().mean(dim=0)
    assert ((mean - x[0]).abs() <= 5 * x[0] * math.sqrt(p / (1 - p) / n)).all()


def test_dropping_everything_gives_zeros_and_no_nan():
    assert torch.equal(Dropout(1)(positive_map(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_half_the_strength_is_half_the_rate_and_its_own_scale():
    layer, x = Dropout(0.6), torch.ones(8, 8, 50, 50)
    layer.strength = 0.5
    torch.manual_seed(0)
    out = layer(x)
    assert abs(float((out == 0).double().mean()) - 0.3) <= five_sigma(0.3, x.numel())
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.7))


def test_the_default_drops_a_tenth_from_the_first_step_on():
    config = DropoutConfig()
    assert (config.p, config.schedule) == (0.1, "constant")


@pytest.mark.parametrize(("p", "rule"), [(-0.1, "between 0 and 1"), (1.5, "between 0 and 1")])
def test_a_rate_that_is_no_probability_is_refused(p, rule):
    with pytest.raises(ConfigError, match=f"regularizer.p must be {rule}, got {p}"):
        load_config(overrides={"regularizer": "dropout", "p": p})
    with pytest.raises(ValueError, match=f"p must be between 0 and 1, got {p}"):
        Dropout(p)
