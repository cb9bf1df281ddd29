"""WeightedChannelDropout against the exact chances of weighted selection: strong channels stay, scaled by weight."""

import math

import pytest
import torch
from scipy.stats import binom, chi2

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.weighted_channel_dropout import WeightedChannelDropoutConfig
from tdbench.regularizers.weighted_channel_dropout.layer import WeightedChannelDropout
from tests.oracles import weighted_channel_dropout as oracle


def positive_map(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.1


def map_with_means(scores, num_samples):
    """Return (N, C, 1, 2) with these global averages."""
    x = torch.tensor(scores)[:, None, None] * torch.tensor([0.5, 1.5])
    return x.expand(num_samples, *x.shape)


def kept_channels(out):
    """Return which channels (N, C) are kept; each is kept whole or dropped whole."""
    kept = (out != 0).flatten(2)
    assert torch.equal(kept.any(dim=2), kept.all(dim=2))
    return kept.any(dim=2)


@pytest.mark.parametrize(
    ("ratio", "num_channels", "num_kept"),
    [(0.5, 8, 4), (0.8, 8, 6), (0.9, 10, 9), (0.01, 8, 1), (1.0, 8, 8), (0.3, 1, 1)],
)
def test_the_selected_share_of_the_channels_is_kept(ratio, num_channels, num_kept):
    torch.manual_seed(0)
    kept = kept_channels(WeightedChannelDropout(ratio, keep=1.0)(positive_map(200, num_channels, 3, 4)))
    assert kept.sum(dim=1).unique().tolist() == [num_kept]


def test_of_two_channels_each_is_selected_in_proportion_to_its_score():
    n, first, second = 20000, 0.3, 1.7
    torch.manual_seed(0)
    kept = kept_channels(WeightedChannelDropout(0.5, keep=1.0)(map_with_means([first, second], n)))
    rate = first / (first + second)
    assert abs(float(kept[:, 0].double().mean()) - rate) <= 5 * math.sqrt(rate * (1 - rate) / n)


def test_the_number_of_channels_is_that_of_the_exact_strength_on_the_host_and_on_the_device():
    layer, x = WeightedChannelDropout(0.9, keep=1.0).train(), torch.ones(1, 2048, 1, 1)
    layer.strength = 72167 / 78200  # 1858.99998 channels, which are 1859 in single precision
    assert int((layer(x) > 0).sum()) == 1858
    layer.live_strength = torch.tensor(layer.strength, dtype=torch.float64)
    assert int((layer(x) > 0).sum()) == 1858


@pytest.mark.parametrize("num_channels", [1, 7, 100])
def test_the_number_of_channels_that_are_selected_is_exact(num_channels):
    x = torch.rand(2, num_channels, 2, 2) + 0.1
    for percent in range(1, 100):
        layer = WeightedChannelDropout(percent / 100, keep=1.0)
        num_kept = (layer(x).flatten(2).amax(2) > 0).sum(1)
        assert num_kept.tolist() == [max(1, num_channels * percent // 100)] * 2
        layer.live_strength = torch.ones((), dtype=torch.float64)
        assert (layer(x).flatten(2).amax(2) > 0).sum(1).tolist() == num_kept.tolist()


@pytest.mark.parametrize(("scores", "num_selected"), [([0.2, 1.0, 3.0, 0.5], 2), ([5.0, 0.1, 2.0], 2), ([1.0] * 5, 3)])
def test_each_set_of_channels_is_selected_as_often_as_weighted_selection_would(scores, num_selected):
    n = 20000
    torch.manual_seed(0)
    layer = WeightedChannelDropout(num_selected / len(scores), keep=1.0)
    kept = kept_channels(layer(map_with_means(scores, n)))
    chances = oracle.chances_of_sets(scores, num_selected)
    codes = (kept * 2 ** torch.arange(len(scores))).sum(dim=1)
    observed = torch.tensor([int((codes == sum(2**channel for channel in chosen)).sum()) for chosen in chances])
    expected = n * torch.tensor(list(chances.values()), dtype=torch.float64)
    assert observed.sum() == n
    assert ((observed - expected) ** 2 / expected).sum() <= chi2.isf(1e-6, len(chances) - 1)


def test_the_stronger_a_channel_the_more_often_it_is_kept():
    torch.manual_seed(0)
    kept = kept_channels(WeightedChannelDropout(0.5)(map_with_means([0.1, 0.4, 1.0, 2.0, 4.0, 9.0], 10000)))
    assert (kept.double().mean(dim=0).diff() > 0).all()


def test_scores_too_small_for_the_power_of_the_paper_still_give_the_same_selection():
    n, first, second = 20000, 0.003, 0.017  # u^(1/score) is 0 in fp32 for most u
    torch.manual_seed(0)
    kept = kept_channels(WeightedChannelDropout(0.5, keep=1.0)(map_with_means([first, second], n)))
    assert abs(float(kept[:, 0].double().mean()) - 0.15) <= 5 * math.sqrt(0.15 * 0.85 / n)


def test_each_selected_channel_is_kept_with_its_own_coin():
    n, keep, num_selected = 10000, 0.7, 4
    torch.manual_seed(0)
    num_kept = kept_channels(WeightedChannelDropout(0.5, keep)(positive_map(n, 8, 1, 1))).sum(dim=1)
    observed = num_kept.bincount(minlength=num_selected + 1).double()
    expected = n * torch.tensor([binom.pmf(k, num_selected, keep) for k in range(num_selected + 1)])
    assert ((observed - expected) ** 2 / expected).sum() <= chi2.isf(1e-6, num_selected)


@pytest.mark.parametrize("rescale", ["selected", "kept"])
def test_what_is_kept_is_scaled_by_all_scores_over_those_that_count_in_each_sample(monkeypatch, rescale):
    x, draws = positive_map(50, 8, 3, 4), torch.rand(2, 50, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(torch, "rand_like", lambda _: draws[0])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws[1])
    out = WeightedChannelDropout(0.6, 0.8, rescale)(x)
    for number, (sample, result) in enumerate(zip(x.double(), out, strict=True)):
        expected = oracle.drop(sample, draws[0][number].tolist(), draws[1][number].tolist(), 0.6, 0.8, rescale)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=0)
        if rescale == "kept" and result.any():
            assert float(result.mean()) == pytest.approx(float(sample.mean()), rel=1e-5)  # the scores' sum is kept


@pytest.mark.parametrize(("rescale", "factor"), [("selected", 0.9), ("kept", 1.0)])
def test_the_mean_of_a_map_is_lower_by_the_coins_unless_they_are_made_up_for(rescale, factor):
    n, scores = 4000, [1.0] * 32
    torch.manual_seed(0)
    means = WeightedChannelDropout(0.8, 0.9, rescale)(map_with_means(scores, n)).double().mean(dim=(1, 2, 3))
    assert abs(float(means.mean()) - factor) <= 5 * float(means.std()) / math.sqrt(n) + 1e-6


def test_the_count_is_rounded_down_as_in_public_code():
    torch.manual_seed(0)
    layer = WeightedChannelDropout(0.8, keep=1.0)
    assert float((layer(positive_map(10, 32, 2, 2)) == 0).double().mean()) == 0.21875 == layer.nominal_share((32, 2, 2))
    assert WeightedChannelDropout(0.29, keep=1.0).nominal_share((100, 2, 2)) == pytest.approx(0.71)


def test_a_rescaling_that_is_none_is_refused_by_the_layer():
    with pytest.raises(ValueError, match="rescale must be selected or kept, got 'all'"):
        WeightedChannelDropout(rescale="all")


def test_a_sample_that_keeps_no_channel_is_zero_and_not_nan():
    torch.manual_seed(0)
    out = WeightedChannelDropout(0.01, 0.5)(positive_map(64, 8, 3, 3))
    assert out.isfinite().all()
    kept = kept_channels(out).any(dim=1)
    assert kept.any()
    assert not kept.all()


def test_half_the_strength_lowers_both_shares_half_as_far():
    n, layer = 4000, WeightedChannelDropout(0.5, 0.6)
    layer.strength = 0.5  # ratio 0.75, keep 0.8
    torch.manual_seed(0)
    kept = kept_channels(layer(positive_map(n, 8, 1, 1)))
    assert kept.sum(dim=1).max() == 6
    share = float(kept.double().mean())
    assert abs(share - 0.6) <= 5 * math.sqrt(6 * 0.8 * 0.2 / n) / 8


def test_dead_channels_in_half_precision_give_no_nan():
    x = torch.zeros(2000, 4, 3, 3, dtype=torch.float16)
    x[:, 0] = 1  # where this one is dropped, only dead ones are kept
    torch.manual_seed(0)
    assert WeightedChannelDropout()(x).isfinite().all()


def test_the_defaults_are_in_the_range_of_the_paper():
    config = WeightedChannelDropoutConfig()
    assert (config.ratio, config.keep, config.schedule) == (0.8, 0.9, "constant")


@pytest.mark.parametrize("field", ["ratio", "keep"])
@pytest.mark.parametrize(("value", "rule"), [(0, "greater than 0"), (1.5, "at most 1"), (-0.1, "greater than 0")])
def test_a_share_out_of_range_is_refused_where_the_configuration_is_read(field, value, rule):
    with pytest.raises(ConfigError, match=f"regularizer.{field} must be {rule}, got {value}"):
        load_config(overrides={"regularizer": "weighted_channel_dropout", f"regularizer.{field}": value})


@pytest.mark.parametrize("field", ["ratio", "keep"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_share_out_of_range_is_refused_by_the_layer(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got {value}"):
        WeightedChannelDropout(**{field: value})


@pytest.mark.parametrize("field", ["ratio", "keep"])
def test_a_share_of_zero_is_refused_by_the_layer(field):
    with pytest.raises(ValueError, match=f"{field} must be .*, got 0"):
        WeightedChannelDropout(**{field: 0})
