"""TargetDrop by kernels against the plain form: the same masks, the same numbers to a rounding, the same gradients.

Triton's interpreter runs its kernels on the CPU, where the C++ ones run too; `pytest -m gpu` runs Triton's on a GPU.
"""

import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tdbench import TargetDrop2d, target_drop2d
from tdbench.regularizers.base import DropMeter, live_share_of, share_of
from tdbench.regularizers.targetdrop import fused, layer
from tests.regularizers.feature_maps import FORMATS, assert_same, exact_map, feature_map

FORMS = [
    pytest.param(fused.by_cpp, "cpu", id="cpp"),
    pytest.param(fused.by_triton, "cpu", id="triton"),
    pytest.param(fused.by_triton, "cuda", id="triton-cuda", marks=pytest.mark.gpu),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
in_each_form = pytest.mark.parametrize(("form", "device"), FORMS)
in_each_format = pytest.mark.parametrize("memory_format", FORMATS)
in_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
with_and_without_relu = pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])

KNOBS = [
    {},
    {"attention": "gap", "rescale": "layer"},
    {"attention": "se_ste", "block_size": 3},
    {"attention": "random", "rescale": "none"},
    {"target_fraction": 0.8},
    {"region": "random"},
    {"drop_ratio": 1.0, "block_size": 99},
]


@pytest.fixture
def switch(monkeypatch):
    """Return a switch to the kernels of one form, on whatever device, where it takes the layer at all, or to none."""

    def switch(form) -> None:
        if form is not None:
            pytest.importorskip("triton" if form is fused.by_triton else "tdbench.regularizers.targetdrop.cpu")

        def fused_form(x: Tensor, is_deterministic: bool):
            takes = form is fused.by_triton or (is_deterministic and x.dtype in fused.CPU_DTYPES)
            return form if takes else None

        monkeypatch.setattr(layer, "fused_form", fused_form if form else lambda x, is_deterministic: None)

    return switch


def run(layer: TargetDrop2d, x: Tensor, relu: bool) -> list[Tensor]:
    """Return the output, the gradients of the map and the weights, and (dropped units, units)."""
    layer.generator, layer.meter = torch.Generator(x.device).manual_seed(1), DropMeter(x.device)
    leaf = x.clone().requires_grad_()
    out = layer.after_relu(leaf) if relu else layer(leaf)
    upstream = feature_map(tuple(x.shape), kinds=["ties"], seed=1).to(x)
    return [out.detach(), *torch.autograd.grad(out, [leaf, *layer.parameters()], upstream), layer.meter.counts.float()]


def check_layer(x: Tensor, relu: bool, knobs: dict, form, switch) -> None:
    layer = TargetDrop2d(12, **{"drop_ratio": 0.3, "generator": torch.Generator().manual_seed(0), **knobs}).to(x.device)
    switch(form)
    ours = run(layer, x, relu)
    switch(None)
    for actual, expected in zip(ours, run(layer, x, relu), strict=True):
        assert_same(actual, expected)


@in_each_form
@with_and_without_relu
@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_the_layer_drops_what_the_plain_form_drops(form, device, relu, knobs, switch):
    check_layer(exact_map(device, "channels_last"), relu, knobs, form, switch)


@in_each_form
@in_each_dtype
@in_each_format
@with_and_without_relu
def test_the_layer_drops_the_same_in_each_type_and_memory_order(form, device, dtype, memory_format, relu, switch):
    check_layer(exact_map(device, memory_format, dtype), relu, {}, form, switch)


@in_each_form
@pytest.mark.parametrize("score_dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_the_function_drops_what_the_plain_form_drops(form, device, score_dtype, switch):
    x = feature_map((2, 12, 6, 5), device)
    scores = (8 * feature_map((2, 24, 1, 1), device, kinds=["normal"])).flatten(1).to(score_dtype)[:, ::2]
    for knobs in ({}, {"target_fraction": 0.9}):
        outs = []
        for choice in (form, None):
            switch(choice)
            generator = torch.Generator(device).manual_seed(0)
            outs.append(target_drop2d(x, scores, 0.3, 3, **knobs, generator=generator))
        assert_same(*outs)


@in_each_form
def test_whoever_hooks_the_layer_sees_the_map_after_the_relu(form, device, switch):
    switch(form)
    layer, x, seen = TargetDrop2d(12).to(device), feature_map((1, 12, 6, 5), device, kinds=["normal"]), []
    unwatched = layer.after_relu(x)
    handle = layer.register_forward_hook(lambda module, args, out: seen.extend([*args, out]))
    assert torch.equal(layer.after_relu(x), unwatched)
    handle.remove()
    assert torch.equal(seen[0], x.relu())
    assert torch.equal(seen[1], unwatched)


@in_each_form
def test_a_subclass_and_whoever_watches_all_modules_or_gradients_see_the_layer_too(form, device, switch):
    switch(form)

    class Mine(TargetDrop2d):
        def scores(self, x):
            return -super().scores(x)

    x, seen = feature_map((1, 12, 6, 5), device, kinds=["normal"]), []
    torch.manual_seed(0)
    theirs = Mine(12, 0.5).to(device)
    expected = target_drop2d(x.relu(), theirs.scores(x.relu()), 0.5)
    assert torch.equal(theirs(x.relu()), expected)
    assert torch.equal(theirs.after_relu(x), expected)
    layer = TargetDrop2d(12).to(device)
    handle = layer.register_full_backward_hook(lambda module, *gradients: seen.append("backward"))
    layer.after_relu(x.clone().requires_grad_()).sum().backward()
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *values: seen.append("forward"))
    layer.after_relu(x)
    handle.remove()
    assert seen == ["backward", "forward"]


@in_each_form
def test_a_rising_schedule_holds_after_a_relu_too(form, device, switch):
    switch(form)
    layer, x = TargetDrop2d(12, 0.6).to(device), feature_map((1, 12, 6, 5), device, kinds=["normal"])
    scores = layer.scores(x.relu())
    for strength in (0.0, 0.5, 1.0):
        layer.strength = strength
        assert torch.equal(layer.after_relu(x), target_drop2d(x.relu(), scores, 0.6 * strength))
    assert torch.equal(layer.eval().after_relu(x), x.relu())


@in_each_form
@with_and_without_relu
def test_a_number_of_targets_that_lies_on_the_device_is_the_one_of_the_same_strength(form, device, switch, relu):
    x = feature_map((2, 12, 6, 5), device, kinds=["normal"])
    switch(form)
    for attention, strength in (("se", 0.01), ("gap", 0.5), ("random", 0.62), ("se", 1.0)):
        plain, live = (TargetDrop2d(12, 0.7, attention=attention).to(device) for _ in range(2))
        live.load_state_dict(plain.state_dict())
        plain.set_strength(strength)
        live.live_strength = torch.tensor(strength, dtype=torch.float64, device=device)
        live.strength = 0.3
        assert all(map(torch.equal, run(live, x, relu), run(plain, x, relu)))
        assert live.rises_live


def test_k_on_a_device_is_the_k_of_the_host():
    for num_channels in (1, 3, 64, 100, 2048):
        for percent in range(1, 101):
            ratio = torch.tensor(percent / 100, dtype=torch.float64)
            assert int(live_share_of(ratio, num_channels)) == share_of(percent / 100, num_channels)


def test_a_strength_on_a_device_that_the_plain_form_cannot_read_is_told(switch):
    switch(None)
    layer = TargetDrop2d(12, 0.7)
    layer.live_strength = torch.ones((), dtype=torch.float64)
    layer.set_strength(0.5)
    assert torch.equal(layer(x := torch.rand(2, 12, 6, 5)), target_drop2d(x, layer.scores(x), 0.35))
    assert not layer.rises_live
    assert TargetDrop2d(12).rises_live
    assert not TargetDrop2d(12, target_fraction=0.5).rises_live
    assert not TargetDrop2d(12, region="random").rises_live


@in_each_form
def test_attention_weights_that_want_a_gradient_get_one(form, device, switch):
    layer, x = TargetDrop2d(12, 0.5, attention="se").to(device), feature_map((2, 12, 6, 5), device, kinds=["normal"])
    layer.fc1.requires_grad_()
    gradients = []
    for choice in (form, None):
        switch(choice)
        gradients.append(torch.autograd.grad(layer.after_relu(x).sum(), layer.fc1)[0])
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


# Where Triton's kernels apply


@pytest.fixture
def one_gpu(monkeypatch):
    """Make believe that there is a GPU, with feature maps that have no values."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode():
        yield monkeypatch


@pytest.mark.usefixtures("one_gpu")
@in_each_dtype
def test_triton_takes_both_memory_orders(dtype):
    x = torch.empty(2, 3, 8, 8, device="cuda", dtype=dtype)
    assert fused.fused_form(x, True) is fused.by_triton
    assert fused.fused_form(x.to(memory_format=torch.channels_last), False) is fused.by_triton


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    "x",
    [
        lambda: torch.empty(2, 3, 8, 8, device="cpu"),
        lambda: torch.empty(2, 3, 8, 8, device="meta"),
        lambda: torch.empty(2, 3, 8, 8, device="cuda", dtype=torch.float64),
        lambda: torch.empty(2, 3, 8, 8, 2, device="cuda").select(4, 0),  # torch 2.6 asks the driver for a slice
        lambda: torch.empty(2, 3, 8, 8, device="cuda").transpose(2, 3),
        lambda: torch.empty(1, 5000, 8, 8, device="cuda"),
        lambda: torch.empty(1, 3, 2048, 2048, device="cuda"),
        lambda: torch.empty(1, 4000, 1000, 1000, device="cuda"),
    ],
    ids=["no values", "meta", "double", "strided", "transposed", "channels", "positions", "units"],
)
def test_the_plain_form_takes_the_rest_of_a_gpu(x):
    assert fused.fused_form(x(), True) is None


def test_triton_can_be_switched_off_be_missing_or_find_an_old_gpu(one_gpu):
    x = torch.empty(2, 3, 8, 8, device="cuda")
    with one_gpu.context() as patch:
        patch.setenv("TDBENCH_TRITON", "0")
        assert fused.fused_form(x, True) is None
    with one_gpu.context() as patch:
        patch.setitem(sys.modules, "tdbench.regularizers.targetdrop.gpu", None)
        for asked in ("imports", "supports_triton"):  # which would remember the other answer
            patch.setattr(fused, asked, getattr(fused, asked).__wrapped__)
        assert fused.fused_form(x, True) is None
    with one_gpu.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
        patch.setattr(fused, "supports_triton", fused.supports_triton.__wrapped__)
        assert fused.fused_form(x, True) is None
    assert fused.fused_form(x, True) is fused.by_triton


# Compiled, on a GPU


@pytest.mark.gpu
@in_each_format
@in_each_dtype
@pytest.mark.parametrize("knobs", KNOBS[:3], ids=str)
def test_compiled_in_one_graph_equals_the_plain_form(memory_format, dtype, knobs, switch):
    torch.compiler.reset()
    layer = TargetDrop2d(12, **{"drop_ratio": 0.3, **knobs}).cuda()
    x = exact_map("cuda", memory_format, dtype).requires_grad_()
    upstream = feature_map(x.shape, "cuda", memory_format, dtype, ["ties"], seed=1)
    results = []
    for function in (torch.compile(layer, fullgraph=True), layer):
        out = function(x)
        results.append([out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], upstream)])
        switch(None)
    assert torch.equal(results[0][0] == 0, results[1][0] == 0)
    torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.gpu
def test_under_autocast_the_type_of_the_map_is_kept_and_the_mask_is_the_same(switch):
    layer = TargetDrop2d(12, 0.3).cuda()
    x = exact_map("cuda", "channels_last", torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        ours = layer(x)
        switch(None)
        assert_same(ours, layer(x))
