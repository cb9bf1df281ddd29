"""The Triton kernels against the plain form: the same masks, the same numbers to a rounding, the same gradients.

Triton's interpreter runs them on the CPU; `pytest -m gpu` runs the same tests, and a few more, on a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tdbench import TargetDrop2d, target_drop2d
from tdbench.regularizers import _fused
from tdbench.regularizers._targets import top_channels
from tdbench.regularizers._windows import centres_by_channel, drop_windows, scales, windows_at
from tdbench.regularizers.base import DropMeter
from tests.oracles import targetdrop as oracle
from tests.oracles.targetdrop import draw_values

pytest.importorskip("triton")
kernels = pytest.importorskip("tdbench.regularizers.targetdrop_triton")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# Odd, single pixels, one channel, more positions and more channels than a block has, no sample. The interpreter takes
# some 20 ms a block, so that there are few.
SHAPES = [(2, 5, 7, 6), (1, 9, 1, 1), (2, 1, 5, 4), (1, 2, 67, 63), (1, 40, 2, 3), (0, 3, 4, 4)]

on_each_device = pytest.mark.parametrize("device", DEVICES)
in_each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
in_each_format = pytest.mark.parametrize("memory_format", FORMATS)
in_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
with_and_without_relu = pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])


def feature_map(shape, device="cpu", memory_format="nchw", dtype=torch.float32, kinds=None, seed=0) -> Tensor:
    """Return a feature map whose planes are of these kinds in turn, so that one launch sees them all."""
    kinds = kinds or ("normal", "ties", "nan", "infinite")
    x = torch.empty(shape, dtype=torch.float64)
    for number, kind in enumerate(kinds):
        planes = x.flatten(0, 1)[number :: len(kinds)]
        planes.copy_(draw_values(kind, tuple(planes.shape), seed))
    return x.to(device, dtype).contiguous(memory_format=FORMATS[memory_format])


def some_windows(x: Tensor, block_size: int):
    """Return windows in about half the channels, wherever they fall."""
    num_samples, num_channels, height, width = x.shape
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(num_samples, num_channels, generator=generator).argsort(dim=1)
    channels = order[:, : (num_channels + 1) // 2].to(x.device)
    centres = torch.randint(height * width, channels.shape, generator=generator).to(x.device)
    return windows_at(x, channels, centres, block_size)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """The masks are equal, and in fp32 every bit; half types may differ where λ, or the product, was rounded."""
    assert actual.stride() == expected.stride() or actual.numel() == 0
    assert torch.equal(actual == 0, expected == 0)
    rtol = 0.0 if actual.dtype == torch.float32 else 2 * torch.finfo(actual.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0, equal_nan=True)


# Each kernel


@on_each_device
@in_each_shape
@in_each_format
@with_and_without_relu
def test_squeeze_finds_the_mean_and_the_first_maximum_of_each_channel(device, shape, memory_format, relu):
    x = feature_map(shape, device, memory_format)
    means, peaks = kernels.squeeze(x, relu)
    active = x.relu().cpu() if relu else x.cpu()
    tolerance = 8 * torch.finfo(torch.float32).eps  # of a mean of numbers below 8
    expected = active.double().mean(dim=(2, 3)).float()
    torch.testing.assert_close(means.cpu(), expected, rtol=0, atol=tolerance, equal_nan=True)
    for planes, positions in zip(active.tolist(), peaks.tolist(), strict=True):
        assert [row * shape[3] + col for row, col in map(oracle.peak, planes)] == positions


@on_each_device
@in_each_dtype
def test_squeeze_of_half_types_adds_in_single_precision(device, dtype):
    x = torch.ones(1, 2, 64, 64, device=device, dtype=dtype)
    x[0, 1, 0, 0] = 1 + 2**-7
    assert kernels.squeeze(x, False)[0].tolist() == [[1, 1 + 2**-19]]


@on_each_device
@pytest.mark.parametrize(
    ("rescale", "block_size", "num_channels", "num_targets", "dtype"),
    [
        ("channel", 3, 9, 4, torch.float32),
        ("channel", 3, 70, 10, torch.float64),
        ("channel", 99, 9, 9, torch.float32),
        ("layer", 3, 9, 4, torch.float64),
        ("layer", 99, 1, 1, torch.float32),
        ("none", 3, 9, 1, torch.float32),
    ],
)
def test_choose_ranks_places_and_scales_as_the_plain_form_does(
    device, rescale, block_size, num_channels, num_targets, dtype
):
    x = torch.empty(4, num_channels, 5, 4, device=device)
    kinds = ["normal", "ties", "nan", "infinite"]
    scores = torch.stack([draw_values(kind, (num_channels,), 0) for kind in kinds]).to(device, dtype)
    peaks = torch.randint(20, scores.shape, generator=torch.Generator().manual_seed(0)).to(device)
    radius = min(block_size // 2, 5)
    centres, scale, area = kernels.choose(scores, peaks.int(), num_targets, 5, 4, radius, rescale)
    channels = top_channels(scores, num_targets)
    windows = windows_at(x, channels, peaks.gather(1, channels), block_size)
    assert torch.equal(centres.long(), centres_by_channel(x, windows))
    assert torch.equal(scale, scales(x, windows, rescale))
    assert torch.equal(area, windows.area.sum(1))


@on_each_device
@in_each_shape
@in_each_format
@in_each_dtype
def test_drop_masks_and_scales_as_the_plain_form_does(device, shape, memory_format, dtype):
    x = feature_map(shape, device, memory_format, dtype)
    windows = some_windows(x, 99 if shape[1] == 1 else 3)
    scale = scales(x, windows, "channel")
    centres = centres_by_channel(x, windows).int()
    upstream = feature_map(shape, device, memory_format, dtype, ["normal"], seed=1)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = kernels.drop(leaves[0], centres, scale, windows.radius, False), drop_windows(leaves[1], windows, scale)
    assert_same(*outs)
    assert_same(*(torch.autograd.grad(out, leaf, upstream)[0] for out, leaf in zip(outs, leaves, strict=True)))


@on_each_device
@in_each_shape
@in_each_format
@in_each_dtype
def test_the_form_with_a_relu_is_the_relu_and_then_the_plain_form(device, shape, memory_format, dtype):
    x = feature_map(shape, device, memory_format, dtype)
    windows = some_windows(x, 3)
    scale = scales(x, windows, "channel")
    centres = centres_by_channel(x, windows).int()
    upstream = feature_map(shape, device, memory_format, dtype, ["normal"], seed=1)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = kernels.drop(leaves[0], centres, scale, windows.radius, True), drop_windows(leaves[1].relu(), windows, scale)
    assert_same(*outs)
    assert_same(*(torch.autograd.grad(out, leaf, upstream)[0] for out, leaf in zip(outs, leaves, strict=True)))


@on_each_device
@in_each_dtype
def test_the_form_with_a_relu_rounds_as_the_form_without_does(device, dtype):
    x = feature_map((1, 8, 6, 5), device, "channels_last", dtype)
    windows = some_windows(x, 3)
    knobs = centres_by_channel(x, windows).int(), scales(x, windows, "layer"), windows.radius
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = kernels.drop(leaves[0], *knobs, True), kernels.drop(leaves[1].relu(), *knobs, False)
    grads = [torch.autograd.grad(out, leaf, x)[0] for out, leaf in zip(outs, leaves, strict=True)]
    for fused, unfused in (outs, grads):
        torch.testing.assert_close(fused, unfused, rtol=0, atol=0, equal_nan=True)


@on_each_device
@with_and_without_relu
def test_a_gradient_in_another_memory_order_and_one_of_second_order_pass(device, relu):
    x = feature_map((1, 4, 5, 3), device, "channels_last", kinds=["normal"]).requires_grad_()
    windows = some_windows(x, 3)
    scale = scales(x, windows, "channel")
    out = kernels.drop(x, centres_by_channel(x, windows).int(), scale, windows.radius, relu)
    upstream = torch.ones(out.shape, device=device).requires_grad_()  # in NCHW
    (grad,) = torch.autograd.grad(out, x, upstream, create_graph=True)
    slope = (out / x).detach()  # out is linear in x on either side of zero, and grad in upstream
    torch.testing.assert_close(grad, slope)
    torch.testing.assert_close(torch.autograd.grad(grad, upstream, torch.full_like(grad, 3))[0], 3 * slope)


@on_each_device
def test_the_operators_pass_opcheck(device):
    x = feature_map((1, 5, 7, 6), device, "channels_last", kinds=["normal"])
    means, peaks = kernels.squeeze(x, False)
    centres, scale, _ = kernels.choose(means, peaks, 2, 7, 6, 1, "channel")
    leaf, out = x.clone().requires_grad_(), x.relu()
    parts = ["test_schema", "test_autograd_registration"]
    if device == "cuda":  # the interpreter cannot be traced
        parts += ["test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic"]
    for operator, arguments in (
        (kernels.squeeze, (x, True)),
        (kernels.choose, (means, peaks, 2, 7, 6, 1, "layer")),
        (kernels.drop, (leaf, centres, scale, 1, False)),
        (kernels.drop, (leaf, centres, scale, 1, True)),
        (kernels.relu_drop_backward, (leaf, out, scale)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=parts)


def test_a_map_in_neither_memory_order_is_refused():
    x = torch.ones(2, 3, 4, 4)[..., ::2]
    with pytest.raises(ValueError, match="contiguous"):
        kernels.squeeze(x, False)


# The layer


@pytest.fixture
def fused(monkeypatch):
    """Return a switch: whether the kernels apply, on whatever device."""

    def switch(on: bool) -> None:
        monkeypatch.setattr(_fused, "applies_to", lambda x: on)

    return switch


KNOBS = [
    {},
    {"attention": "gap", "rescale": "layer"},
    {"attention": "se_ste", "block_size": 3},
    {"attention": "random", "rescale": "none"},
    {"target_fraction": 0.8},
    {"region": "random"},
    {"drop_ratio": 1.0, "block_size": 99},
]


def run(layer: TargetDrop2d, x: Tensor, relu: bool) -> list[Tensor]:
    """Return the output, the gradients of the map and the weights, and (dropped units, units)."""
    layer.generator, layer.meter = torch.Generator(x.device).manual_seed(1), DropMeter(x.device)
    leaf = x.clone().requires_grad_()
    out = layer.after_relu(leaf) if relu else layer(leaf)
    upstream = feature_map(tuple(x.shape), kinds=["ties"], seed=1).to(x)
    return [out.detach(), *torch.autograd.grad(out, [leaf, *layer.parameters()], upstream), layer.meter.counts.float()]


def check_layer(x: Tensor, relu: bool, knobs: dict, fused) -> None:
    layer = TargetDrop2d(12, **{"drop_ratio": 0.3, "generator": torch.Generator().manual_seed(0), **knobs}).to(x.device)
    fused(True)
    ours = run(layer, x, relu)
    fused(False)
    for actual, expected in zip(ours, run(layer, x, relu), strict=True):
        assert_same(actual, expected)


def exact_map(*args) -> Tensor:
    """Return small integers, some of them NaN: their means are exact, so no rounding decides between two channels."""
    return torch.cat([feature_map((1, 12, 6, 5), *args, kinds=[kind]) for kind in ("ties", "nan")])


@on_each_device
@with_and_without_relu
@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_the_layer_drops_what_the_plain_form_drops(device, relu, knobs, fused):
    check_layer(exact_map(device, "channels_last"), relu, knobs, fused)


@on_each_device
@in_each_dtype
@in_each_format
@with_and_without_relu
def test_the_layer_drops_the_same_in_each_type_and_memory_order(device, dtype, memory_format, relu, fused):
    check_layer(exact_map(device, memory_format, dtype), relu, {}, fused)


@on_each_device
@pytest.mark.parametrize("score_dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_the_function_drops_what_the_plain_form_drops(device, score_dtype, fused):
    x = feature_map((2, 12, 6, 5), device)
    scores = (8 * feature_map((2, 24, 1, 1), device, kinds=["normal"])).flatten(1).to(score_dtype)[:, ::2]
    for knobs in ({}, {"target_fraction": 0.9}):
        outs = []
        for on in (True, False):
            fused(on)
            generator = torch.Generator(device).manual_seed(0)
            outs.append(target_drop2d(x, scores, 0.3, 3, **knobs, generator=generator))
        assert_same(*outs)


def test_whoever_hooks_the_layer_sees_the_map_after_the_relu(fused):
    fused(True)
    layer, x, seen = TargetDrop2d(12), feature_map((1, 12, 6, 5), kinds=["normal"]), []
    unwatched = layer.after_relu(x)
    handle = layer.register_forward_hook(lambda module, args, out: seen.extend([*args, out]))
    assert torch.equal(layer.after_relu(x), unwatched)
    handle.remove()
    assert torch.equal(seen[0], x.relu())
    assert torch.equal(seen[1], unwatched)


def test_a_subclass_and_whoever_watches_all_modules_or_gradients_see_the_layer_too(fused):
    fused(True)

    class Mine(TargetDrop2d):
        def drop(self, x):
            return x * 0, torch.zeros((), dtype=torch.int64)

    x, seen = feature_map((1, 12, 6, 5), kinds=["normal"]), []
    assert not Mine(12).after_relu(x).any()
    layer = TargetDrop2d(12)
    handle = layer.register_full_backward_hook(lambda module, *gradients: seen.append("backward"))
    layer.after_relu(x.clone().requires_grad_()).sum().backward()
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *values: seen.append("forward"))
    layer.after_relu(x)
    handle.remove()
    assert seen == ["backward", "forward"]


# Where the kernels apply


@pytest.fixture
def one_gpu(monkeypatch):
    """Make believe that there is a GPU, with feature maps that have no values."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode():
        yield monkeypatch


@pytest.mark.usefixtures("one_gpu")
@in_each_dtype
def test_the_kernels_apply_on_a_gpu_in_both_memory_orders(dtype):
    x = torch.empty(2, 3, 8, 8, device="cuda", dtype=dtype)
    assert _fused.applies_to(x)
    assert _fused.applies_to(x.to(memory_format=torch.channels_last))


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    "x",
    [
        lambda: torch.empty(2, 3, 8, 8, device="cpu"),
        lambda: torch.empty(2, 3, 8, 8, device="cuda", dtype=torch.float64),
        lambda: torch.empty(2, 3, 8, 8, device="cuda")[..., ::2],
        lambda: torch.empty(2, 3, 8, 8, device="cuda").transpose(2, 3),
        lambda: torch.empty(1, 5000, 8, 8, device="cuda"),
        lambda: torch.empty(1, 3, 2048, 2048, device="cuda"),
        lambda: torch.empty(1, 4000, 1000, 1000, device="cuda"),
    ],
    ids=["cpu", "double", "strided", "transposed", "channels", "positions", "units"],
)
def test_the_plain_form_takes_the_rest(x):
    assert not _fused.applies_to(x())


def test_triton_can_be_switched_off_be_missing_or_find_an_old_gpu(one_gpu):
    x = torch.empty(2, 3, 8, 8, device="cuda")
    with one_gpu.context() as patch:
        patch.setenv("TDBENCH_TRITON", "0")
        assert not _fused.applies_to(x)
    with one_gpu.context() as patch:
        patch.setitem(sys.modules, "tdbench.regularizers.targetdrop_triton", None)
        assert not _fused.applies_to(x)
    with one_gpu.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
        assert not _fused.applies_to(x)
    assert _fused.applies_to(x)


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_and_the_layer_is_traced_in_one_graph():
    """Neither needs a GPU, but both need the compiler instead of the interpreter, hence another process."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# On a GPU


@pytest.mark.gpu
@in_each_format
@in_each_dtype
@pytest.mark.parametrize("knobs", KNOBS[:3], ids=str)
def test_compiled_in_one_graph_equals_the_plain_form(memory_format, dtype, knobs, fused):
    torch.compiler.reset()
    layer = TargetDrop2d(12, **{"drop_ratio": 0.3, **knobs}).cuda()
    x = exact_map("cuda", memory_format, dtype).requires_grad_()
    upstream = feature_map(x.shape, "cuda", memory_format, dtype, ["ties"], seed=1)
    results = []
    for function in (torch.compile(layer, fullgraph=True), layer):
        out = function(x)
        results.append([out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], upstream)])
        fused(False)
    assert torch.equal(results[0][0] == 0, results[1][0] == 0)
    torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.gpu
def test_the_operators_compile_in_one_graph():
    def forward(x: Tensor) -> Tensor:
        means, peaks = kernels.squeeze(x.detach(), True)
        centres, scale, _ = kernels.choose(means, peaks, 3, 6, 5, 1, "channel")
        return kernels.drop(x, centres, scale, 1, True)

    torch.compiler.reset()
    results = []
    for function in (torch.compile(forward, fullgraph=True), forward):
        x = exact_map("cuda", "channels_last").requires_grad_()
        out = function(x)
        results.append([out.detach(), *torch.autograd.grad(out, x, x.detach())])
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.gpu
def test_under_autocast_the_type_of_the_map_is_kept_and_the_mask_is_the_same(fused):
    layer = TargetDrop2d(12, 0.3).cuda()
    x = exact_map("cuda", "channels_last", torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        ours = layer(x)
        fused(False)
        assert_same(ours, layer(x))
