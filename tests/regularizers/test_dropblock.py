"""DropBlock against a plain loop, the exact chances of a unit, and torchvision; in its sparse and its dense form."""

import math

import pytest
import torch
import torchvision
from scipy.stats import chi2

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.dropblock import DropBlockConfig
from tdbench.regularizers.dropblock.layer import DropBlock, _drop_dense, drop_block2d
from tdbench.regularizers.seeds import bernoulli_positions
from tests.oracles import dropblock as oracle

PAPER_MAPS = [(16, 7), (8, 7), (8, 5), (7, 7), (4, 3)]  # (side of the map, block size)
FORMS = ("sparse", "dense", "compiled")


def drop_dense(x, p, block_size):
    """Call the dense form on a CPU, with the seeds' rate from the oracle."""
    height, width = x.shape[2:]
    tall, wide = oracle.block(height, width, block_size)
    rate = oracle.seed_rate(p, height, width, block_size)
    return _drop_dense(x, rate, (tall, wide), (height - tall + 1, width - wide + 1))


def form(name):
    if name == "compiled":
        torch._dynamo.reset()
        return torch.compile(drop_block2d, fullgraph=True, backend="eager")
    return {"sparse": drop_block2d, "dense": drop_dense}[name]


def positive_map(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype) + 0.5


def shares(out):
    """Return the dropped share of each map, which are independent of each other."""
    return (out == 0).double().mean(dim=(2, 3)).flatten()


def assert_same_mean(ours, other):
    """Five deviations of the difference of two means of independent values; `other` may be a number, which has none."""
    other = torch.as_tensor(other, dtype=torch.float64).flatten()
    variance = sum(sample.var() / len(sample) for sample in (ours, other) if len(sample) > 1)
    assert abs(ours.mean() - other.mean()) <= 5 * variance.sqrt()


# The mask


@pytest.mark.parametrize("name", ["sparse", "dense"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(9, 7, 3), (8, 8, 4), (5, 9, 7), (4, 4, 5), (3, 3, 1), (1, 6, 2)]
)
def test_the_same_seeds_give_the_output_of_the_oracle(monkeypatch, name, layout, height, width, size):
    tall, wide = oracle.block(height, width, size)
    shape = 3, 4, height - tall + 1, width - wide + 1
    seeds = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.1
    assert seeds.any()
    x = positive_map(3, 4, height, width).to(memory_format=layout)
    positions = seeds.flatten().nonzero().flatten()
    monkeypatch.setattr("tdbench.regularizers.dropblock.layer.bernoulli_positions", lambda length, rate: positions)
    monkeypatch.setattr(torch, "rand", lambda *shape, device: (~seeds).float())
    out, num_dropped = form(name)(x, 0.1, size)
    keep = oracle.keep_mask(seeds, height, width, size)
    torch.testing.assert_close(out.double(), x * keep * keep.numel() / keep.sum(), rtol=1e-6, atol=0)
    assert num_dropped == (keep == 0).sum()


@pytest.mark.parametrize(("name", "size"), [("sparse", 3), ("sparse", 4), ("dense", 3), ("dense", 4), ("compiled", 4)])
def test_every_dropped_region_is_a_union_of_whole_blocks_inside_the_map(name, size):
    torch.manual_seed(0)
    dropped = form(name)(positive_map(8, 8, 9, 11), 0.2, size)[0] == 0
    assert all(oracle.is_union_of_blocks(plane, size) for plane in dropped.flatten(0, 1))
    assert 0 < dropped.sum() < dropped.numel()


@pytest.mark.parametrize("name", ["sparse", "dense"])
@pytest.mark.parametrize("neighbour", ["channel", "sample"])
def test_the_masks_of_two_channels_and_of_two_samples_are_independent(name, neighbour):
    n = 4000
    torch.manual_seed(0)
    share = (form(name)(torch.ones(2 * n, 2, 8, 8), 0.1, 3)[0] == 0).double().mean(dim=(2, 3))
    first, second = (share[:n, 0], share[:n, 1]) if neighbour == "channel" else (share[0::2, 0], share[1::2, 0])
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(correlation) <= 5 / math.sqrt(n)


# The scale


@pytest.mark.parametrize("name", ["sparse", "dense"])
@pytest.mark.parametrize(("side", "size"), [*PAPER_MAPS, (4, 5), (9, 4)])
def test_the_mean_of_the_mask_times_its_scale_is_one_in_each_batch(name, side, size):
    x = torch.ones(32, 4, side, side)
    torch.manual_seed(0)
    for _ in range(3):
        out, num_dropped = form(name)(x, 0.1, size)
        assert num_dropped == (out == 0).sum()
        assert len(out.unique()) == 2  # 0 and the scale
        assert abs(float(out.double().mean()) - 1) <= torch.finfo(torch.float32).eps  # the scale's own rounding


@pytest.mark.parametrize("name", FORMS)
def test_a_batch_that_is_dropped_whole_is_zero_and_not_nan(name):
    out, num_dropped = form(name)(positive_map(2, 3, 7, 7), 1.0, 7)
    assert torch.equal(out, torch.zeros_like(out))
    assert num_dropped == out.numel()


# The strength


@pytest.mark.parametrize("name", ["sparse", "dense"])
@pytest.mark.parametrize(("side", "size"), PAPER_MAPS)
def test_the_realised_share_is_torchvision_s_and_the_one_the_oracle_expects(name, side, size):
    x = torch.ones(1000, 600_000 // (1000 * side**2) + 1, side, side)
    torch.manual_seed(0)
    ours = shares(form(name)(x, 0.1, size)[0])
    assert_same_mean(ours, shares(torchvision.ops.drop_block2d(x, 0.1, size)))
    assert_same_mean(ours, oracle.drop_chances(0.1, side, side, size).mean())


@pytest.mark.parametrize("name", ["sparse", "dense"])
@pytest.mark.parametrize(("height", "width", "size"), [(4, 4, 5), (8, 8, 4), (9, 6, 7), (5, 5, 1)])
def test_each_unit_is_dropped_as_often_as_the_oracle_expects_even_where_torchvision_refuses(name, height, width, size):
    n = 8000
    torch.manual_seed(0)
    often = (form(name)(torch.ones(n // 4, 4, height, width), 0.1, size)[0] == 0).double().mean(dim=(0, 1))
    chances = oracle.drop_chances(0.1, height, width, size)
    assert ((often - chances).abs() <= 5 * (chances * (1 - chances) / n).sqrt()).all()


def test_torchvision_refuses_an_even_block_and_a_block_cut_to_an_even_map():
    for size in (4, 5):
        # torchvision 0.21 does not ask, and fails at the mask, which is two pixels too wide.
        with pytest.raises((ValueError, RuntimeError), match=r"odd|must match the size"):
            torchvision.ops.drop_block2d(torch.ones(1, 1, 4, 4), 0.1, size)


@pytest.mark.parametrize(
    ("name", "side", "size"),
    [("dense", 8, 5), ("dense", 6, 2), ("dense", 4, 5), ("compiled", 8, 5), ("compiled", 4, 5)],
)
def test_both_forms_drop_as_many_units_of_a_map_equally_often(name, side, size):
    n = 10000
    torch.manual_seed(0)
    x = torch.ones(n // 10, 10, side, side)
    counts = [(form(one)(x, 0.2, size)[0] == 0).sum(dim=(2, 3)).flatten() for one in ("sparse", name)]
    table = torch.stack([count.bincount(minlength=side**2 + 1) for count in counts]).double()
    rare = table.sum(dim=0) < 20  # too few for chi²: count these together
    table = torch.cat([table[:, ~rare], table[:, rare].sum(dim=1, keepdim=True)], dim=1)
    table = table[:, table.sum(dim=0) > 0]
    expected = table.sum(dim=0) / 2
    assert ((table - expected) ** 2 / expected).sum() <= chi2.isf(1e-6, table.shape[1] - 1)


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_the_schedule_scales_the_share(strength):
    layer = DropBlock(0.2, 3)
    layer.strength = strength
    torch.manual_seed(0)
    ours = shares(layer(torch.ones(500, 8, 10, 10)))
    assert_same_mean(ours, oracle.drop_chances(0.2 * strength, 10, 10, 3).mean())


# The seeds of the sparse form: a Bernoulli process


@pytest.fixture(params=["at once", "one by one"])
def draws(request, monkeypatch):
    """Draw as many numbers as the function asks for, or only one at a time, so that it must go on."""
    real = torch.rand
    if request.param == "one by one":
        monkeypatch.setattr(torch, "rand", lambda _, **kwargs: real(1, **kwargs))


@pytest.mark.parametrize(("length", "rate"), [(40, 0.02), (40, 0.3), (40, 0.9), (1, 0.3)])
@pytest.mark.usefixtures("draws")
def test_each_position_has_a_seed_with_the_given_rate_and_independently_of_the_others(length, rate):
    n = 400
    torch.manual_seed(0)
    ones = torch.zeros(n, length, dtype=torch.float64)
    for row in ones:
        positions = bernoulli_positions(length, rate)
        assert positions.dtype == torch.int64
        assert (positions.diff() > 0).all()
        row[positions] = 1
    variance = rate * (1 - rate)
    often = ones.mean(dim=0)
    assert ((often - rate) ** 2 / (variance / n)).sum() <= chi2.isf(1e-6, length)
    counts = ones.sum(dim=1)
    assert abs(counts.mean() - length * rate) <= 5 * math.sqrt(length * variance / n)
    kurtosis = (1 - 6 * variance) / (length * variance)  # of the binomial, beyond that of the normal distribution
    assert abs(counts.var() / (length * variance) - 1) <= 5 * math.sqrt((2 + kurtosis) / (n - 1))
    if length > 1:
        pairs = (ones[:, 1:] * ones[:, :-1]).sum(dim=1)
        assert abs(pairs.mean() - (length - 1) * rate**2) <= 5 * pairs.std() / math.sqrt(n)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.7])
def test_the_gaps_between_the_seeds_are_geometric(rate):
    torch.manual_seed(0)
    positions = bernoulli_positions(int(20000 / rate), rate)
    gaps, num_bins = positions.diff(), math.ceil(4 / rate)
    observed = gaps.clamp(max=num_bins).bincount(minlength=num_bins + 1)[1:].double()
    chances = [rate * (1 - rate) ** (gap - 1) for gap in range(1, num_bins)] + [(1 - rate) ** (num_bins - 1)]
    expected = len(gaps) * torch.tensor(chances, dtype=torch.float64)
    assert ((observed - expected) ** 2 / expected).sum() <= chi2.isf(1e-6, num_bins - 1)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0, []), (-1, []), (5e-324, []), (1e-300, []), (1, range(50)), (1.5, range(50)), (1 - 1e-15, range(50))],
)
def test_a_rate_at_or_near_the_edge_gives_no_seed_or_all_of_them(rate, expected):
    assert bernoulli_positions(50, rate).tolist() == list(expected)


def test_a_tiny_rate_over_a_huge_length_gives_the_few_seeds_it_should():
    torch.manual_seed(0)
    length, n = 2**45, 2000
    found = [bernoulli_positions(length, 3 / length) for _ in range(n)]
    mean = sum(map(len, found)) / n
    assert abs(mean - 3) <= 5 * math.sqrt(3 / n)  # Poisson(3)
    positions = torch.cat(found).double() / length
    assert abs(positions.mean() - 0.5) <= 5 * math.sqrt(1 / 12 / len(positions))


# The knobs


def test_the_function_takes_an_empty_batch():
    out, num_dropped = drop_block2d(torch.ones(0, 3, 8, 8), 0.1, 3)
    assert out.shape == (0, 3, 8, 8)
    assert num_dropped == 0


def test_the_defaults_are_those_of_the_paper():
    config = DropBlockConfig()
    assert (config.p, config.block_size, config.schedule, config.ramp) == (0.1, 7, "linear", 1.0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"p": -0.1}, "p must be between 0 and 1, got -0.1"),
        ({"p": 1.5}, "p must be between 0 and 1, got 1.5"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs, message):
    with pytest.raises(ConfigError, match=f"regularizer.{message}"):
        load_config(overrides={"regularizer": "dropblock", **knobs})
    for make in (DropBlock, lambda **knobs: drop_block2d(torch.ones(1, 1, 8, 8), **knobs)):
        with pytest.raises(ValueError, match=message):
            make(**knobs)
