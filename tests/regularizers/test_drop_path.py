"""DropPath against torchvision's stochastic depth by row: a sample's branch is dropped whole or kept whole."""

import math

import pytest
import torch
from torchvision.ops import stochastic_depth

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.drop_path import DropPathConfig
from tdbench.regularizers.drop_path.layer import DropPath


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def torchvision_drop_path(x):
    return stochastic_depth(x, 0.3, "row")


def five_sigma(rate, n):
    return 5 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize("shape", [(64, 10), (64, 3, 10), (64, 3, 5, 4)])
def test_a_sample_is_dropped_whole_or_kept_whole_in_a_map_of_any_shape(shape):
    torch.manual_seed(0)
    dropped = (DropPath(0.3)(positive_map(*shape)) == 0).flatten(1)
    assert torch.equal(dropped.any(dim=1), dropped.all(dim=1))
    assert 0 < dropped.sum() < dropped.numel()


@pytest.mark.parametrize("layer", [DropPath(0.3), torchvision_drop_path], ids=["ours", "torchvision"])
def test_what_is_kept_is_divided_by_one_minus_p_as_in_torchvision(layer):
    x = positive_map(64, 3, 5, 4)
    torch.manual_seed(0)
    out = layer(x)
    torch.testing.assert_close(out, (out != 0) * x / 0.7)


@pytest.mark.parametrize("layer", [DropPath(0.3), torchvision_drop_path], ids=["ours", "torchvision"])
def test_samples_are_dropped_independently_at_p_as_in_torchvision(layer):
    n = 100_000
    torch.manual_seed(0)
    dropped = (layer(torch.ones(n, 1, 1, 1)) == 0).flatten()
    assert abs(float(dropped.double().mean()) - 0.3) <= five_sigma(0.3, n)
    both = (dropped[0::2] & dropped[1::2]).double().mean()  # of neighbours in the batch
    assert abs(float(both) - 0.09) <= five_sigma(0.09, n // 2)


def test_the_mean_over_many_draws_is_the_input():
    p, n, x = 0.3, 4000, positive_map(1, 4, 3, 3)
    torch.manual_seed(0)
    mean = DropPath(p)(x.expand(n, 4, 3, 3)).double().mean(dim=0)
    assert ((mean - x[0]).abs() <= 5 * x[0] * math.sqrt(p / (1 - p) / n)).all()


def test_dropping_everything_gives_zeros_and_no_nan():
    assert torch.equal(DropPath(1)(positive_map(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))


def test_the_rate_rises_linearly_with_depth_up_to_p():
    config = DropPathConfig(p=0.4)
    rates = [config.build(8, depth=branch / 5).full_rate for branch in range(1, 6)]
    assert rates == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4])


def test_a_branch_half_way_down_drops_half_as_often():
    n = 20000
    torch.manual_seed(0)
    out = DropPathConfig(p=0.4).build(8, depth=0.5).train()(torch.ones(n, 1, 1, 1))
    assert abs(float((out == 0).double().mean()) - 0.2) <= five_sigma(0.2, n)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.8))


def test_half_the_strength_is_half_the_rate_and_its_own_scale():
    layer = DropPath(0.6)
    layer.strength = 0.5
    torch.manual_seed(0)
    out = layer(torch.ones(20000, 1, 1, 1))
    assert abs(float((out == 0).double().mean()) - 0.3) <= five_sigma(0.3, out.numel())
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.7))


def test_the_default_drops_a_fifth_of_the_last_branch_and_sits_on_the_branches():
    config = DropPathConfig()
    assert (config.p, config.schedule, config.placement) == (0.2, "constant", "branch")


@pytest.mark.parametrize(("p", "rule"), [(-0.1, "between 0 and 1"), (1.5, "between 0 and 1")])
def test_a_rate_that_is_no_probability_is_refused(p, rule):
    with pytest.raises(ConfigError, match=f"regularizer.p must be {rule}, got {p}"):
        load_config(overrides={"regularizer": "drop_path", "p": p})
    with pytest.raises(ValueError, match=f"p must be between 0 and 1, got {p}"):
        DropPath(p)
