"""What holds for every method, whatever it drops."""

import copy
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from tdbench import load_config
from tdbench.config.loading import own_knobs
from tdbench.regularizers.base import DropMeter
from tdbench.regularizers.registry import find_method, method_names
from tdbench.sweep.keys import default_sweep

METHODS = method_names()
RANDOM = [name for name in METHODS if name not in ("none", "targetdrop", "max_dropout")]
# Knobs with which a method drops nothing.
ZERO = {
    "attentiondrop": {"p": 0},
    "corrdrop": {"p": 0},
    "drop_path": {"p": 0},
    "dropblock": {"p": 0},
    "dropout": {"p": 0},
    "max_dropout": {"p": 0},
    "spatial_dropout": {"p": 0},
    "targetdrop": {"drop_ratio": 0},
    "weighted_channel_dropout": {"ratio": 1, "keep": 1},
}

# Of knobs without a declared sweep: values that make a difference.
VALUES = {
    ("attentiondrop", "threshold"): (0.5, 0.9),
    ("focused_dropout", "high"): (0.7, 0.9),
    ("focused_dropout", "low"): (0.1, 0.6),
    ("targetdrop", "reduction"): (1, 4),
}


def layer_of(name, channels=8, **knobs):
    torch.manual_seed(0)
    return find_method(name)(**knobs).build(channels).train()


def feature_map(shape=(4, 8, 9, 7), dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).relu().to(dtype)


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_is_the_identity_itself(name):
    x = feature_map()
    assert layer_of(name).eval()(x) is x


def test_every_method_that_can_drop_nothing_is_asked_to():
    # A hole has one pixel at least; a participation of 0 is refused.
    assert set(ZERO) == set(METHODS) - {"none", "cutout", "focused_dropout"}


@pytest.mark.parametrize("name", ZERO)
def test_zero_strength_is_the_identity_bit_for_bit(name):
    x = feature_map()
    assert torch.equal(layer_of(name, **ZERO[name])(x), x)


@pytest.mark.parametrize("strength", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_a_strength_that_is_a_tensor_gives_the_mask_of_the_same_number(name, strength, monkeypatch):
    # In the form that a GPU uses, for which alone there is such a tensor.
    monkeypatch.setattr(import_module(f"tdbench.regularizers.{name}.layer"), "is_followed", lambda: True, raising=False)
    if name == "dropout":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    layer, x, dropped = layer_of(name), feature_map((16, 8, 9, 7)), 0
    for seed in range(40):  # FocusedDropout takes part in few steps
        maps = []
        for on_gpu in (False, True):
            layer.strength = 0.8 if on_gpu and strength > 0 else strength
            layer.live_strength = torch.tensor(strength, dtype=torch.float64) if on_gpu else None
            torch.manual_seed(seed)
            maps.append(layer(x))
        assert torch.equal(*maps)
        dropped += not torch.equal(maps[0], x)
    assert (dropped > 0) == (strength > 0)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_a_strength_of_0_draws_nothing_on_a_gpu_either(name):
    layer = layer_of(name)
    layer.live_strength = torch.ones((), dtype=torch.float64)
    layer.set_strength(0.0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(layer(x := feature_map()), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_method_can_let_its_strength_rise_on_a_gpu():
    assert [name for name in METHODS if not layer_of(name).rises_live] == []


@pytest.mark.parametrize("name", METHODS)
def test_a_schedule_that_has_not_risen_yet_is_the_identity(name):
    layer, x = layer_of(name), feature_map()
    layer.strength = 0.0
    assert torch.equal(layer(x), x)


@pytest.mark.parametrize(("name", "knob"), [(name, knob) for name in METHODS for knob in own_knobs(name)])
def test_every_knob_changes_what_the_layer_does(name, knob):
    x, outs = feature_map((4, 16, 9, 9)), []
    for value in VALUES.get((name, knob)) or default_sweep(
        f"regularizer.{knob}", load_config(overrides={"regularizer": name})
    ):
        layer = layer_of(name, 16, **{knob: value})
        torch.manual_seed(3)
        outs.append(torch.stack([layer(x) for _ in range(30)]))
    assert any(not torch.equal(out, outs[0]) for out in outs[1:])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_half_the_strength_drops_less_and_half_where_the_share_is_proportional(name):
    config = find_method(name)()
    strengths = {"focused_dropout": {"participation": 1.0}, "weighted_channel_dropout": {"ratio": 0.5, "keep": 0.5}}
    torch.manual_seed(0)
    layer, x = layer_of(name, 64, **strengths.get(name, {})), feature_map((8, 64, 12, 12))
    shares = {}
    for strength in (0.5, 1.0):
        layer.strength = strength
        dropped = [float(layer.drop(x)[1]) / x.numel() for _ in range(400)]
        shares[strength] = sum(dropped) / len(dropped)
    assert 0 < shares[0.5] < shares[1.0]
    if config.share_is_proportional:  # 400 draws of 8 samples: the rarest event's share is known to 6 %, at one sigma
        assert shares[0.5] == pytest.approx(shares[1.0] / 2, rel=0.25)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 8]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_shape_type_and_memory_format_are_kept_and_the_input_is_not_touched(name, shape, dtype, layout):
    x = feature_map(shape, dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = x.repeat_interleave(2, dim=3)[..., ::2]
    before = x.clone()
    x.requires_grad_()
    out = layer_of(name, channels=shape[1])(x)
    assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)
    if layout == "channels_last" and min(shape[1:]) > 1 and shape[0] > 0:
        assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)
    out.float().sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("name", "compiles"),
    [
        *[(name, False) for name in METHODS if name != "none"],
        *[(name, True) for name in ("dropblock", "dropout", "targetdrop")],  # which have a form of their own then
    ],
)
def test_output_and_gradient_have_the_memory_format_of_the_map(name, compiles, device):
    layer = layer_of(name, **{"focused_dropout": {"participation": 1.0}}.get(name, {})).to(device)
    if compiles:
        torch.compiler.reset()
        layer = torch.compile(layer, backend="aot_eager" if device == "cpu" else "inductor")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = feature_map().to(device).contiguous(memory_format=memory_format).requires_grad_()
        out = layer(x)
        (gradient,) = torch.autograd.grad(out, x, torch.ones_like(x))
        assert out.is_contiguous(memory_format=memory_format)
        assert gradient.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_gives_one_output(name):
    x, layer, outs = feature_map(), layer_of(name), []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(layer(x))
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_after_a_relu_the_layer_is_the_layer_of_the_relu(name, training):
    x, layer, outs = torch.randn(4, 8, 9, 7), layer_of(name).train(training), []
    for call in (layer.after_relu, lambda x: layer(x.relu())):
        torch.manual_seed(3)
        outs.append(call(x))
    assert torch.equal(*outs)


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_method_draws_anew_each_step(name):
    x, layer = feature_map((16, 8, 12, 12)), layer_of(name)
    torch.manual_seed(0)
    outs = [layer(x) for _ in range(60)]  # focused_dropout takes part in a tenth of the steps
    assert any(not torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_the_mask_with_its_scale(name):
    x = feature_map((4, 8, 8, 8)).add(0.1).requires_grad_()
    out = layer_of(name)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out / x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_meter_counts_the_units_that_the_mask_zeroes(name):
    x = torch.rand(8, 8, 10, 10) + 0.5
    layer = layer_of(name)
    layer.meter = DropMeter(torch.device("cpu"))
    num_zeros = 0
    for seed in range(20):
        torch.manual_seed(seed)
        num_zeros += int((layer(x) == 0).sum())
    assert layer.meter.read() == (num_zeros, 20 * x.numel())


@pytest.mark.parametrize("name", METHODS)
def test_state_survives_a_round_trip_and_a_copy(name):
    layer, other, x, outs = layer_of(name), layer_of(name), feature_map(), []
    other.load_state_dict(layer.state_dict())
    for twin in (layer, other, copy.deepcopy(layer)):
        torch.manual_seed(5)
        outs.append(twin(x))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("name", METHODS)
def test_a_linear_schedule_rises_to_full_strength_over_its_share_of_the_training(name):
    flags = {"regularizer": name, "regularizer.schedule": "linear", "ramp": 0.5}
    rising = load_config(overrides=flags).regularizer
    assert [rising.strength_at(progress) for progress in (0, 0.25, 0.5, 1)] == [0, 0.5, 1, 1]
    constant = load_config(overrides={"regularizer": name, "regularizer.schedule": "constant"}).regularizer
    assert constant.strength_at(0) == 1


@pytest.mark.parametrize("name", METHODS)
def test_each_method_and_each_knob_is_described(name):
    assert all(field.description for field in find_method(name).model_fields.values())


def views_bits_in_a_vmap() -> bool:
    try:
        vmap(lambda x: x.view(torch.int32))(torch.ones(2))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_the_transforms_of_torch_func_go_through(name):
    if name == "targetdrop" and not views_bits_in_a_vmap():
        pytest.skip("this torch has no batching rule for view(dtype), which ranks the channels")
    layer = layer_of(name, 8)
    weights = torch.randn(8, 12, 12)
    x = feature_map((4, 8, 12, 12)).requires_grad_(False)

    def value(one):
        return (layer(one[None])[0] * weights).sum()

    assert grad(value)(x[0]).shape == x[0].shape
    gradients = vmap(grad(value), randomness="different")(x)
    assert gradients.shape == x.shape
    assert gradients.isfinite().all()
    assert functional_call(layer, dict(layer.named_parameters()), (x,)).shape == x.shape
