"""TargetDrop against an oracle in plain loops, its knobs and knock-outs, and every edge case of the method."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from tdbench import TargetDrop2d, target_drop2d
from tdbench.regularizers.base import DropMeter
from tdbench.regularizers.targetdrop import TargetDropConfig
from tests.oracles import targetdrop as oracle
from tests.oracles.targetdrop import draw_values, feature_maps

inf, nan = math.inf, math.nan
ATTENTIONS = ("se", "se_ste", "gap", "random")
RESCALES = ("channel", "layer", "none")
HALF_TYPES = (torch.float16, torch.bfloat16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct(*shape: int, seed: int = 0) -> Tensor:
    """Return a positive map in float64 without two equal values, so that `out == 0` is the mask."""
    return (torch.randperm(math.prod(shape), generator=seeded(seed)).double().view(shape) + 1) / math.prod(shape)


def one_map(values: list[list[float]], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[values]], dtype=dtype)


def drop_all(x: Tensor, block_size: int = 1, **knobs) -> Tensor:
    return target_drop2d(x, torch.zeros(x.shape[:2]), 1.0, block_size, **knobs)


def altered(out: Tensor, x: Tensor) -> Tensor:
    """Return which maps (N, C) differ."""
    return (out != x).flatten(2).any(2)


def assert_equals(actual: Tensor, expected: Tensor) -> None:
    """λ rounds and the product rounds, half types once; a zero must be a zero, NaN and infinity are themselves."""
    rtol = (1 if actual.dtype.itemsize == 2 else 2) * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=0, equal_nan=True)


def assert_layout_kept(out: Tensor, x: Tensor) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        assert out.is_contiguous(memory_format=memory_format) or not x.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_scale_near_one_keeps_its_digits_in_half_types(dtype):
    x = (1 + torch.rand(1, 64, 32, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
    x[:, :, 16, 16] = 3
    out = target_drop2d(x, torch.zeros(1, 64), drop_ratio=1.0, block_size=5)
    kept = out != 0
    scale = float((out[kept].double() / x[kept].double()).mean())
    exact, eps = 1024 / (1024 - 25), torch.finfo(dtype).eps
    # the ratio of each of the 1 / eps numbers between 1 and 2 is off by a rounding, of deviation eps / sqrt(12) at most
    tolerance = 4 * eps / math.sqrt(12 / eps)
    assert abs(scale - exact) < tolerance
    assert abs(float(torch.tensor(exact, dtype=dtype)) - exact) > tolerance  # what rounding λ itself would give


GAMMAS = st.integers(0, 100).map(lambda percent: percent / 100)
BLOCK_SIZES = st.sampled_from([1, 3, 5, 7, 17, 101])


# The function, against the oracle


def check_against_oracle(x: Tensor, scores: Tensor, drop_ratio: float, block_size: int, rescale: str) -> None:
    before, version = x.clone(), x._version
    leaf = x.detach().requires_grad_()
    out = target_drop2d(leaf, scores, drop_ratio, block_size, rescale=rescale)
    upstream = torch.randint(1, 5, x.shape, generator=seeded()).to(x)
    (grad,) = torch.autograd.grad(out, leaf, upstream)
    expected, multiplier = oracle.target_drop2d(x.cpu(), scores.cpu(), drop_ratio, block_size, rescale)
    assert (out.dtype, out.device, out.shape) == (x.dtype, x.device, x.shape)
    assert_equals(out.cpu(), expected)
    assert_equals(grad.cpu(), multiplier * upstream.cpu().double())
    assert_layout_kept(out, x)
    assert x._version == version, "the input was mutated"
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=300, deadline=None)
@given(feature_maps(), st.data(), GAMMAS, BLOCK_SIZES, st.sampled_from(RESCALES))
def test_output_and_gradient_equal_the_oracle(x, data, drop_ratio, block_size, rescale):
    kind, seed = data.draw(st.sampled_from(["ties", "normal", "infinite"])), data.draw(st.integers(0, 99))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, *HALF_TYPES]))
    scores = draw_values(kind, tuple(x.shape[:2]), seed).to(dtype)
    check_against_oracle(x, scores, drop_ratio, block_size, rescale)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["ties", "nan", "infinite"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradient_equal_the_oracle_on_a_gpu(kind, memory_format):
    x = draw_values(kind, (3, 9, 8, 7), 0).float().to("cuda", memory_format=memory_format)
    check_against_oracle(x, draw_values("ties", (3, 9), 1).float().cuda(), 0.5, 3, "channel")


@settings(max_examples=60, deadline=None)
@given(feature_maps(("ties", "normal")), GAMMAS, BLOCK_SIZES, st.sampled_from(["gap", "se"]))
def test_module_equals_the_function_with_its_own_logits(x, drop_ratio, block_size, attention):
    layer = TargetDrop2d(x.shape[1], drop_ratio, block_size, attention=attention, generator=seeded()).double()
    x = x.double()  # so that the oracle's rounding cannot decide between two channels
    means = x.mean(dim=(2, 3)) if attention == "gap" else oracle.logits(x, layer.fc1, layer.fc2)
    assert torch.equal(layer(x), target_drop2d(x, torch.as_tensor(means).view(x.shape[:2]), drop_ratio, block_size))


# Which channels, which region, which scale


@pytest.mark.parametrize(
    ("drop_ratio", "channels", "num_dropped"),
    [(0.29, 100, 29), (0.15, 20, 3), (0.4, 5, 2), (0.15, 3, 1), (0.001, 7, 1), (1.0, 7, 7), (0.999, 7, 6), (0.5, 1, 1)],
)
def test_exactly_floor_of_gamma_c_maps_per_sample_are_altered_and_at_least_one(drop_ratio, channels, num_dropped):
    x = distinct(3, channels, 4, 4)
    out = target_drop2d(x, distinct(3, channels), drop_ratio, 3)
    assert altered(out, x).sum(1).tolist() == [num_dropped] * 3


def test_equal_scores_take_the_lowest_channels():
    x, scores = torch.ones(1, 6, 3, 3), torch.tensor([[-0.0, 1.0, 0.0, 0.0, 1.0, 1.0]])
    assert altered(target_drop2d(x, scores, 0.67, 1), x).tolist() == [[True, True, False, False, True, True]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_TYPES])
def test_the_next_larger_score_wins(dtype):
    x, scores = torch.ones(1, 3, 2, 2), torch.tensor([[1, 1, 1 + torch.finfo(dtype).eps]], dtype=dtype)
    assert altered(target_drop2d(x, scores, 0.34, 1), x).tolist() == [[False, False, True]]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_TYPES])
def test_channels_are_ranked_by_logits_where_the_sigmoid_saturates(dtype):
    layer = TargetDrop2d(3, 0.34, 1).to(dtype)
    layer.fc1.fill_(1 / 3)
    layer.fc2.copy_(torch.tensor([5.0, 7.5, 10.0])[:, None].expand(3, 4))  # of means of 1: logits 20, 30, 40
    x = torch.ones(1, 3, 2, 2, dtype=dtype)
    for out in (layer(x), target_drop2d(x, torch.tensor([[20.0, 30.0, 40.0]], dtype=dtype), 0.34, 1)):
        assert altered(out, x).tolist() == [[False, False, True]]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("value", [0.0, -1.0, 3.0, inf, -inf, nan])
def test_an_all_equal_map_is_dropped_round_its_first_position(value, memory_format):
    x = torch.full((2, 3, 4, 5), value).to(memory_format=memory_format)
    expected = torch.full((2, 3, 4, 5), value)
    expected[..., :2, :2] = 0
    torch.testing.assert_close(drop_all(x, 3, rescale="none"), expected, equal_nan=True)


def test_the_peak_is_the_signed_maximum():
    assert drop_all(one_map([[-9.0, 1.0], [2.0, -3.0]]), rescale="none").tolist() == [[[[-9, 1], [0, -3]]]]


def test_the_window_is_clipped_at_the_border_and_does_not_shift():
    x = torch.ones(1, 1, 5, 5)
    x[0, 0, 0, 4] = 2
    expected = torch.full((5, 5), 25 / 21)
    expected[:2, 3:] = 0
    torch.testing.assert_close(drop_all(x, 3)[0, 0], expected)


def test_each_window_holds_the_maximum_of_its_map():
    x = distinct(2, 8, 9, 6)
    assert (drop_all(x, 3).flatten(2).gather(2, x.flatten(2).argmax(2, keepdim=True)) == 0).all()


@pytest.mark.parametrize("region", ["peak", "random"])
@pytest.mark.parametrize("block_size", [1, 3, 5, 7])
def test_the_area_of_a_window_lies_between_a_quarter_and_all_of_the_block(block_size, region):
    areas = (drop_all(distinct(20, 40, 7, 8), block_size, region=region) == 0).sum(dim=(2, 3))
    assert areas.min() == math.ceil(block_size / 2) ** 2
    assert areas.max() == block_size**2


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_zero_inside_the_windows_and_lambda_outside_bit_for_bit(rescale, dtype):
    x, scores = distinct(2, 6, 7, 8).to(dtype).requires_grad_(), distinct(2, 6)
    (grad,) = torch.autograd.grad(target_drop2d(x, scores, 0.5, 3, rescale=rescale).sum(), x)
    assert torch.equal(grad, oracle.target_drop2d(x, scores, 0.5, 3, rescale)[1].to(dtype))


@pytest.mark.parametrize("rescale", RESCALES)
def test_gradients_of_first_and_second_order_agree_with_finite_differences(rescale):
    x, scores = distinct(2, 2, 4, 3).requires_grad_(), distinct(2, 2)

    def drop(x: Tensor) -> Tensor:
        return target_drop2d(x, scores, 0.5, 3, rescale=rescale)

    assert torch.autograd.gradcheck(drop, x)
    assert torch.autograd.gradgradcheck(drop, x)


def test_scores_receive_no_gradient():
    x, scores = distinct(2, 4, 5, 3).requires_grad_(), distinct(2, 4).requires_grad_()
    target_drop2d(x, scores).sum().backward()
    assert scores.grad is None


@settings(max_examples=40, deadline=None)
@given(feature_maps(("ties", "normal"), min_samples=2), GAMMAS, BLOCK_SIZES, st.sampled_from(RESCALES))
def test_a_sample_is_dropped_as_if_it_were_alone(x, drop_ratio, block_size, rescale):
    scores = draw_values("ties", tuple(x.shape[:2]), 0)
    out = target_drop2d(x, scores, drop_ratio, block_size, rescale=rescale)
    backward = target_drop2d(x.flip(0), scores.flip(0), drop_ratio, block_size, rescale=rescale)
    assert torch.equal(backward, out.flip(0)), "permuting the batch does not commute"
    poisoned, last = torch.cat([x[:-1] * nan, x[-1:]]), slice(x.shape[0] - 1, None)
    for alone in (target_drop2d(poisoned, scores, drop_ratio, block_size, rescale=rescale)[last], out[last]):
        assert torch.equal(alone, target_drop2d(x[last], scores[last], drop_ratio, block_size, rescale=rescale))


# Edge cases, and the faults of the third-party implementation


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("shape", [(1, 8, 6, 6), (0, 8, 6, 6), (2, 1, 5, 5), (3, 8, 1, 1), (1, 1, 1, 1), (2, 8, 4, 9)])
def test_module_takes_a_batch_of_any_shape(shape, attention):
    x = distinct(*shape).float().requires_grad_()
    out = TargetDrop2d(shape[1], attention=attention)(x)
    out.sum().backward()
    assert out.shape == x.shape
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("block_size", [5, 9, 101])
def test_a_block_larger_than_the_map_is_clipped(block_size):
    x = one_map([[9.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    expected = torch.zeros(4, 4)
    if block_size == 5:
        expected[3], expected[:, 3] = 16 / 7, 16 / 7
    torch.testing.assert_close(drop_all(x, block_size)[0, 0], expected)


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF_TYPES])
@pytest.mark.parametrize("value", [1.0, inf, -inf, nan])
def test_a_window_that_covers_the_map_gives_zeros(value, dtype, rescale):
    x = torch.full((2, 3, 4, 4), value, dtype=dtype, requires_grad=True)
    out = drop_all(x, 7, rescale=rescale)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert not out.any()
    assert not grad.any()


def test_a_window_that_covers_the_map_leaves_the_straight_through_gradient_finite():
    layer = TargetDrop2d(4, 0.5, 7, attention="se_ste", generator=seeded())
    layer(distinct(2, 4, 3, 3).float()).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


def test_channels_last_is_kept_forward_and_backward():
    x = distinct(2, 8, 6, 5).to(memory_format=torch.channels_last).requires_grad_()
    for out in (
        target_drop2d(x, distinct(2, 8)),
        *(TargetDrop2d(8, attention=name).double()(x) for name in ATTENTIONS),
    ):
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_nan_is_lower_than_every_finite_number_and_stays_visible_outside_the_window(memory_format):
    x = one_map([[nan, -5.0, 1.0], [nan, -6.0, 3.0], [nan, -7.0, 2.0]]).repeat(1, 2, 1, 1)
    out = drop_all(x.to(memory_format=memory_format), 3, rescale="none")
    expected = torch.tensor([[nan, 0, 0]] * 3).expand(1, 2, 3, 3)
    torch.testing.assert_close(out, expected, equal_nan=True)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_nan_stays_visible_through_the_module(attention):
    x = torch.randn(2, 8, 9, 9)
    x[:, :, 4, 4] = nan
    assert TargetDrop2d(8, 1.0, 3, attention=attention)(x).isnan().any()


def test_infinity_is_a_maximum_and_minus_infinity_is_not():
    out = drop_all(one_map([[-inf, inf, 1.0], [2.0, inf, -inf]]), rescale="none")
    assert out.tolist() == [[[[-inf, 0, 1], [2, inf, -inf]]]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"block_size": 4}, "block_size must be odd"),
        ({"block_size": 0}, "block_size must be odd"),
        ({"block_size": -1}, "block_size must be odd"),
        ({"drop_ratio": 0.3, "target_fraction": 0.2}, "target_fraction"),
        ({"target_fraction": 1.1}, "target_fraction"),
        ({"drop_ratio": -0.1}, "drop_ratio"),
        ({"drop_ratio": 1.1}, "drop_ratio"),
        ({"drop_ratio": nan}, "drop_ratio"),
        ({"region": "corner"}, "region"),
        ({"rescale": "batch"}, "rescale"),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        target_drop2d(torch.ones(1, 2, 3, 3), torch.ones(1, 2), **knobs)
    with pytest.raises(ValueError, match=message):
        TargetDrop2d(2, **knobs)
    with pytest.raises(ValueError, match=message.partition(" ")[0]):
        TargetDropConfig(**knobs)


@pytest.mark.parametrize(
    ("x", "scores", "message"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 3), "x must be"),
        (torch.ones(1, 2, 3, 4, 5), torch.ones(1, 2), "x must be"),
        (torch.ones(1, 2, 3, 4, dtype=torch.int64), torch.ones(1, 2), "x must be"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 3), "scores must be"),
        (torch.ones(1, 2, 3, 4), torch.ones(2), "scores must be"),
        (torch.ones(1, 2, 3, 4), torch.ones(1, 2, 1, 1), "scores must be"),
    ],
)
def test_a_wrong_shape_or_type_is_refused(x, scores, message):
    with pytest.raises(ValueError, match=message):
        target_drop2d(x, scores)


@pytest.mark.parametrize("x", [torch.ones(1, 2, 3, 3), torch.ones(3, 3, 3)])
def test_module_refuses_another_number_of_channels(x):
    with pytest.raises(ValueError, match="x must be"):
        TargetDrop2d(3)(x)


# The module


def test_weights_are_kaiming_normal_by_fan_out():
    layer = TargetDrop2d(512, generator=seeded())
    for weight, shape in ((layer.fc1, (32, 512)), (layer.fc2, (512, 32))):
        deviation, n = math.sqrt(2 / shape[0]), math.prod(shape)
        assert tuple(weight.shape) == shape
        assert abs(weight.mean()) < 5 * deviation / math.sqrt(n)
        assert abs(weight.std() - deviation) < 5 * deviation / math.sqrt(2 * n)
    assert [tuple(weight.shape) for weight in TargetDrop2d(48).buffers()] == [(4, 48), (48, 4)]


@pytest.mark.parametrize(
    ("attention", "saved", "trained"),
    [("se", 2, 0), ("se_ste", 2, 2), ("gap", 0, 0), ("random", 0, 0)],
)
def test_se_holds_buffers_and_se_ste_parameters(attention, saved, trained):
    layer = TargetDrop2d(8, attention=attention)
    assert list(layer.state_dict()) == ["fc1", "fc2"][:saved]
    assert len(list(layer.parameters())) == trained


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("block_size", [1, 3, 5])
def test_se_ste_is_se_bit_for_bit_and_its_weights_get_the_gradient_of_the_dense_formulation(block_size, rescale):
    plain = TargetDrop2d(9, 0.4, block_size, rescale=rescale, generator=seeded()).double()
    trained = TargetDrop2d(9, 0.4, block_size, rescale=rescale, attention="se_ste").double()
    trained.load_state_dict(plain.state_dict())
    x, upstream = draw_values("normal", (3, 9, 6, 5), 0), draw_values("normal", (3, 9, 6, 5), 1)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = [layer(leaf) for layer, leaf in zip((plain, trained), leaves, strict=True)]
    torch.autograd.backward(outs, [upstream] * 2)
    assert torch.equal(*outs)
    assert torch.equal(leaves[0].grad, leaves[1].grad)
    expected = oracle.straight_through_gradients(x, plain.fc1, plain.fc2, upstream, 0.4, block_size, rescale)
    for weight, gradient in zip((trained.fc1, trained.fc2), expected, strict=True):
        assert gradient.any()
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_evaluation_is_the_input_itself_and_gamma_zero_the_identity(attention):
    x = torch.randn(2, 8, 5, 5)
    assert TargetDrop2d(8, attention=attention).eval()(x) is x
    assert torch.equal(TargetDrop2d(8, 0.0, attention=attention)(x), x)
    assert torch.equal(target_drop2d(x, torch.ones(2, 8), 0.0), x)


@pytest.mark.parametrize("attention", ["se", "se_ste", "gap"])
def test_a_copy_and_a_loaded_state_drop_the_same(attention):
    layer, loaded, x = TargetDrop2d(8, attention=attention), TargetDrop2d(8, attention=attention), distinct(4, 8, 6, 6)
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("attention", ["se", "se_ste", "gap"])
@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_a_half_module_works(dtype, attention):
    layer, x = TargetDrop2d(16, attention=attention).to(dtype), draw_values("normal", (4, 16, 6, 6), 0).to(dtype)
    out = layer(x.requires_grad_())
    out.sum().backward()
    means = x.double().mean(dim=(2, 3)) if attention == "gap" else oracle.logits(x, layer.fc1, layer.fc2)
    assert out.dtype == x.grad.dtype == dtype
    assert_equals(out.detach(), oracle.target_drop2d(x, means)[0])


@pytest.mark.parametrize("attention", ["se", "se_ste", "gap"])
@pytest.mark.parametrize(
    ("module_dtype", "dtype", "autocast"),
    [(torch.float32, torch.float32, True), (torch.float32, torch.bfloat16, True)] + [(t, t, False) for t in HALF_TYPES],
)
def test_half_types_and_autocast_rank_in_single_precision(module_dtype, dtype, autocast, attention):
    layer = TargetDrop2d(4, 0.25, 1, attention=attention).to(module_dtype)
    for weight in (*layer.parameters(), *layer.buffers()):
        nn.init.eye_(weight)  # the logits are the means: 1, 1 + 2^-15, ..., which are all 1 in a half type
    x = torch.ones(1, 4, 16, 16, dtype=dtype)
    for channel in range(4):
        x[0, channel, 0, :channel] = 1 + 2**-7
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = layer(x)
    assert out.dtype == dtype
    assert (out == 0).flatten(2).any(2).tolist() == [[False, False, False, True]]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("region", ["peak", "random"])
def test_the_meter_counts_the_zeros_of_the_mask_and_not_those_of_the_input(attention, region):
    layer = TargetDrop2d(8, 0.5, 3, attention=attention, region=region)
    layer.meter = DropMeter(torch.device("cpu"))
    num_dropped = 0
    for seed in range(3):
        x = draw_values("normal", (2, 8, 7, 5), seed).float().relu().requires_grad_()
        num_dropped += (torch.autograd.grad(layer(x).sum(), x)[0] == 0).sum().item()
    layer.eval()(x)
    assert layer.meter.read(reset=True) == (num_dropped, 3 * x.numel())
    assert layer.meter.read() == (0, 0)


@pytest.mark.parametrize(
    ("size", "share_pct", "digit"), [(32, 0.34, 0.01), (16, 1.25, 0.01), (8, 4.2, 0.1), (4, 11.5, 0.1)]
)
def test_the_realised_share_is_the_published_one(size, share_pct, digit):
    layer = TargetDrop2d(20, 0.15, 5, attention="gap")
    layer.meter, n = DropMeter(torch.device("cpu")), 200
    layer(torch.rand(n, 20, size, size, generator=seeded()))
    dropped, units = layer.meter.read()
    sides = torch.tensor([min(i + 2, size - 1) - max(i - 2, 0) + 1.0 for i in range(size)])
    area_deviation = torch.outer(sides, sides).std(correction=0).item()
    error_pct = 100 * 0.15 * area_deviation / size**2 / math.sqrt(3 * n)
    assert abs(100 * dropped / units - share_pct) < 5 * error_pct + digit / 2


# What is drawn


def assert_uniform(counts: Tensor) -> None:
    """A chi-square test: a fair draw fails it once in a million seeds."""
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-6, counts.numel() - 1)


def test_every_subset_of_the_top_rho_c_channels_is_dropped_equally_often():
    n, top = 60_000, (1, 3, 4, 8)  # floor(0.5 · 9) = 4 targets, of which floor(0.25 · 9) = 2 are dropped
    x, scores = torch.ones(n, 9, 2, 2), torch.tensor([0.0, 5, 1, 8, 9, 2, 3, 4, 7]).expand(n, 9)
    dropped = altered(target_drop2d(x, scores, 0.25, 1, 0.5, generator=seeded()), x)
    subsets, counts = (dropped * 2 ** torch.arange(9)).sum(1).unique(return_counts=True)
    assert subsets.tolist() == sorted(2**a + 2**b for a, b in itertools.combinations(top, 2))
    assert_uniform(counts)


def test_rho_one_and_random_attention_drop_every_channel_equally_often():
    x, scores = torch.ones(6000, 8, 2, 2), distinct(6000, 8)
    assert_uniform(altered(target_drop2d(x, scores, 0.125, 1, 1.0, generator=seeded()), x).sum(0))
    assert_uniform(altered(TargetDrop2d(8, 0.125, 1, attention="random", generator=seeded())(x), x).sum(0))


def test_a_random_region_is_centred_on_every_position_equally_often():
    out = drop_all(torch.ones(6000, 2, 3, 4), region="random", generator=seeded())
    assert ((out == 0).sum(dim=(2, 3)) == 1).all()
    assert_uniform((out == 0).sum(dim=(0, 1)).flatten())
    assert ((out[:, 0] == 0) & (out[:, 1] == 0)).any(2).any(1).float().mean() < 0.5, "channels share their centre"


def test_rho_is_rounded_like_gamma():
    x = torch.ones(500, 100, 2, 2)
    out = target_drop2d(x, torch.arange(100.0).expand(500, 100), 0.1, 1, 0.29, generator=seeded())
    assert altered(out, x).sum(1).tolist() == [10] * 500
    assert altered(out, x).any(0).nonzero().flatten().tolist() == list(range(71, 100))


@pytest.mark.parametrize("knobs", [{"target_fraction": 0.8}, {"region": "random"}, {"attention": "random"}])
def test_a_given_generator_alone_is_advanced_and_decides_the_draw(knobs):
    x, before, outs = distinct(2, 10, 6, 6), torch.get_rng_state(), []
    for seed in (0, 0, *range(1, 10)):
        generator = seeded(seed)
        layer = TargetDrop2d(10, 0.2, 3, **{"attention": "gap", **knobs}, generator=generator)
        outs.append(layer(x))
        assert not torch.equal(generator.get_state(), seeded(seed).get_state())
    assert torch.equal(outs[0], outs[1])
    assert any(not torch.equal(outs[0], out) for out in outs[2:])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("attention", ["se", "se_ste", "gap"])
@pytest.mark.parametrize("target_fraction", [None, 0.2])
def test_nothing_is_drawn_when_rho_is_gamma(attention, target_fraction):
    generator = seeded()
    for source in (generator, None):
        layer = TargetDrop2d(10, 0.2, 3, target_fraction, attention=attention, generator=source)
        before, global_before = generator.get_state(), torch.get_rng_state()
        layer(distinct(2, 10, 6, 6))
        assert torch.equal(generator.get_state(), before)
        assert torch.equal(torch.get_rng_state(), global_before)


# Compilation and export


def run(function, x: Tensor, layer: nn.Module) -> list[Tensor]:
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = function(leaf)
    return [out.detach(), *torch.autograd.grad(out, [leaf, *layer.parameters()], x.cos().nan_to_num())]


@pytest.mark.parametrize(
    ("backend", "kind", "knobs"),
    [
        ("inductor", "ties", {}),
        ("aot_eager", "ties", {"attention": "se_ste"}),
        ("aot_eager", "ties", {"attention": "gap", "rescale": "layer"}),
        ("aot_eager", "infinite", {"attention": "gap", "rescale": "none"}),
        ("aot_eager", "nan", {"attention": "gap"}),
        ("aot_eager", "ties", {"block_size": 101}),
    ],
)
def test_compiled_equals_eager(backend, kind, knobs):
    torch.compiler.reset()
    layer = TargetDrop2d(12, 0.3, **{"block_size": 3, **knobs})
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = draw_values(kind, (2, 12, 7, 5), 0).float().to(memory_format=memory_format)
        torch.testing.assert_close(run(compiled, x, layer), run(layer, x, layer), equal_nan=True)


@pytest.mark.parametrize("knobs", [{"target_fraction": 0.9}, {"region": "random"}, {"attention": "random"}])
def test_a_layer_that_draws_compiles_in_one_graph(knobs):
    torch.compiler.reset()
    compiled = torch.compile(TargetDrop2d(10, 0.3, 3, **knobs), backend="aot_eager", fullgraph=True)
    x = distinct(4, 10, 6, 6).float()
    outs = [compiled(x) for _ in range(8)]
    assert all((altered(out, x).sum(1) == 3).all() for out in outs)
    assert any(not torch.equal(out, outs[0]) for out in outs)


def operations(network: nn.Module, x: Tensor) -> list:
    return [node.target for node in torch.export.export(network, (x,)).graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_export_in_evaluation_leaves_no_trace_of_the_layer(attention):
    x, conv, layer = torch.randn(2, 3, 6, 6), nn.Conv2d(3, 8, 3), TargetDrop2d(8, attention=attention)
    assert operations(nn.Sequential(conv, layer, nn.ReLU()).eval(), x) == operations(nn.Sequential(conv, nn.ReLU()), x)


def test_export_in_training_gives_the_same_output():
    layer, x = TargetDrop2d(8, 0.5, 3), torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_the_layer_refuses_integers_as_the_function_does():
    with pytest.raises(ValueError, match=r"x must be a floating-point tensor \(N, 3, H, W\), got torch.int32"):
        TargetDrop2d(3)(torch.ones(1, 3, 4, 4, dtype=torch.int32))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputed_in_a_backward_the_mask_is_that_of_the_forward_or_there_is_none(use_reentrant):
    """Also a canary: torch has no public way to ask whether a backward is running."""
    layer = TargetDrop2d(8, drop_ratio=0.5, attention="random").train()
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    out = checkpoint(layer, x, use_reentrant=use_reentrant)
    out.sum().backward()
    assert torch.equal(x.grad == 0, out == 0)
    layer = TargetDrop2d(8, drop_ratio=0.5, attention="random", generator=torch.Generator()).train()
    out = checkpoint(layer, x, use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError, match=r"cannot be recomputed by torch\.utils\.checkpoint"):
        out.sum().backward()


@pytest.mark.parametrize("attention", ["se", "se_ste", "gap"])
def test_under_vmap_each_sample_gets_what_it_gets_in_a_batch(attention):
    layer = TargetDrop2d(16, drop_ratio=0.25, attention=attention, reduction=4 if attention != "gap" else 16).train()
    x, weights = torch.randn(5, 16, 7, 7), torch.randn(16, 7, 7)
    parameters = {name: one.detach() for name, one in layer.named_parameters()}

    def value(parameters, one):
        return (functional_call(layer, parameters, (one[None],))[0] * weights).sum()

    own, gradients = vmap(grad(value, argnums=(0, 1)), in_dims=(None, 0))(parameters, x)
    expected = x.clone().requires_grad_()
    (layer(expected) * weights).sum().backward()
    torch.testing.assert_close(gradients, expected.grad)
    for name, one in layer.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(own[name].sum(0), one.grad, rtol=1e-4, atol=1e-5)
