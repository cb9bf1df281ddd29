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

from tdbench.regularizers.targetdrop.targets import excite, top_channels
from tdbench.regularizers.targetdrop.windows import centres_by_channel, drop_windows, scales, windows_at
from tests.oracles import targetdrop as oracle
from tests.oracles.targetdrop import draw_values
from tests.regularizers.feature_maps import FORMATS, assert_same, exact_map, feature_map

pytest.importorskip("triton")
kernels = pytest.importorskip("tdbench.regularizers.targetdrop.gpu")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Odd, single pixels, one channel, more positions and more channels than a block has, no sample. The interpreter takes
# some 20 ms a block, so that there are few.
SHAPES = [(2, 5, 7, 6), (1, 9, 1, 1), (2, 1, 5, 4), (1, 2, 67, 63), (1, 40, 2, 3), (0, 3, 4, 4)]

on_each_device = pytest.mark.parametrize("device", DEVICES)
in_each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
in_each_format = pytest.mark.parametrize("memory_format", FORMATS)
in_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
with_and_without_relu = pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])


def some_windows(x: Tensor, block_size: int):
    """Return windows in about half the channels, wherever they fall."""
    num_samples, num_channels, height, width = x.shape
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(num_samples, num_channels, generator=generator).argsort(dim=1)
    channels = order[:, : (num_channels + 1) // 2].to(x.device)
    centres = torch.randint(height * width, channels.shape, generator=generator).to(x.device)
    return windows_at(x, channels, centres, block_size)


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
    counts = torch.tensor([3, 2**40], device=device)
    centres, scale, area = kernels.choose(scores, peaks.int(), num_targets, 5, 4, radius, rescale)
    channels = top_channels(scores, num_targets)
    windows = windows_at(x, channels, peaks.gather(1, channels), block_size)
    assert torch.equal(centres.long(), centres_by_channel(x, windows))
    assert torch.equal(scale, scales(x, windows, rescale))
    assert torch.equal(area, windows.area.sum(1))
    again = kernels.choose(scores, peaks.int(), num_targets, 5, 4, radius, rescale, counts)
    assert all(map(torch.equal, again, (centres, scale, counts)))
    assert counts.tolist() == [3 + int(area.sum()), 2**40 + x.numel()]


def weights_of(num_channels, num_hidden, device):
    generator = torch.Generator().manual_seed(1)
    shapes = (num_hidden, num_channels), (num_channels, num_hidden)
    return tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes)


@on_each_device
@pytest.mark.parametrize("num_hidden", [None, 1, 5, 130], ids="hidden={}".format)
@pytest.mark.parametrize("shape", [*SHAPES[:5], (2, 70, 9, 9)], ids=lambda shape: "x".join(map(str, shape)))
@with_and_without_relu
def test_squeezing_and_choosing_in_two_kernels_is_squeeze_the_attention_and_choose(device, shape, relu, num_hidden):
    x = feature_map(shape, device, "channels_last", kinds=["normal", "ties", "infinite"])
    weights = None if num_hidden is None else weights_of(shape[1], num_hidden, device)
    num_targets, height, width = (shape[1] + 1) // 2, *shape[2:]
    counts = torch.tensor([3, 2**40], device=device)
    knobs = num_targets, 1, "layer", relu, kernels.blocks_of(x)
    found = kernels.squeeze_and_choose(x, weights, *knobs)
    means, peaks = kernels.squeeze(x, relu)
    expected = kernels.choose(excite(means, weights), peaks, num_targets, height, width, 1, "layer")
    assert all(map(torch.equal, found, expected))
    again = kernels.squeeze_and_choose(x, weights, *knobs, counts)
    assert all(map(torch.equal, again, (*expected[:2], counts)))
    assert counts.tolist() == [3 + int(expected.area.sum()), 2**40 + x.numel()]


@on_each_device
@pytest.mark.parametrize("num_parts", [2, 3, 7])
def test_a_map_that_is_squeezed_in_parts_has_the_mean_and_the_first_maximum_of_the_whole(
    device, num_parts, monkeypatch
):
    monkeypatch.setattr(kernels, "BLOCK_UNITS", 32)  # 4 positions of 8 channels
    monkeypatch.setattr(kernels, "MAX_PARTS", num_parts)
    monkeypatch.setattr(kernels, "BLOCKS_OF_A_PART", 1)
    x = feature_map((3, 8, 5, 6), device, "channels_last", kinds=["normal", "ties", "infinite"])
    x[1, 2], x[1, 3] = torch.nan, -torch.inf  # no part has a maximum: the first position
    x[2, 4] = 1  # all parts tie: the first position
    x[2, 5] = torch.tensor([0.0] * 4 + [2.0] + [0.0] * 4 + [2.0] + [0.0] * 20, device=device).view(5, 6)
    blocks = kernels.blocks_of(x)
    assert kernels.parts_of(blocks) == num_parts
    squeezed = kernels.squeeze_in_parts(x, False, blocks, num_parts)
    means, peaks = kernels.squeeze(x, False)
    torch.testing.assert_close(squeezed.means.sum(1), means, equal_nan=True)
    assert peaks[[1, 1, 2, 2], [2, 3, 4, 5]].tolist() == [0, 0, 0, 4]
    centres, scale, area = kernels.squeeze_and_choose(x, None, 8, 1, "channel", False, blocks)
    assert torch.equal(centres, peaks)
    assert all(map(torch.equal, (scale, area), kernels.choose(means, peaks, 8, 5, 6, 1, "channel")[1:]))


@on_each_device
def test_attention_weights_that_are_trained_large_or_strided_are_left_to_torch(device):
    weights = weights_of(8, 4, device)
    assert kernels.attends(None)
    assert kernels.attends(weights)
    assert not kernels.attends((weights[1].t(), weights[1]))
    assert not kernels.attends((weights[0], weights[1].clone().requires_grad_()))
    assert not kernels.attends(weights_of(1024, 65, device))


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


def test_a_map_in_neither_memory_order_is_refused():
    x = torch.ones(2, 3, 4, 4)[..., ::2]
    with pytest.raises(ValueError, match="contiguous"):
        kernels.squeeze(x, False)


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu():
    """That needs no GPU, but the compiler instead of the interpreter, hence another process."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# On a GPU


@pytest.mark.gpu
def test_the_kernels_compile_in_one_graph():
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
@pytest.mark.parametrize("shape", [(512, 256, 32, 32), (3, 4096, 7, 7), (1, 3, 1024, 1024), (20000, 1, 2, 2)], ids=str)
@in_each_format
def test_large_maps_equal_float64(shape, memory_format):
    x = (torch.rand(shape, device="cuda") + 0.5).contiguous(memory_format=FORMATS[memory_format])
    means, peaks = kernels.squeeze(x, False)
    wide = x.double()
    torch.testing.assert_close(means.double(), wide.mean(dim=(2, 3)), rtol=0, atol=1e-5)
    assert torch.equal(peaks.long(), x.flatten(2).argmax(dim=2))
    num_targets = max(1, shape[1] // 7)
    centres, scale, area = kernels.choose(means, peaks, num_targets, *shape[2:], 2, "channel")
    assert torch.equal((centres >= 0).sum(1), torch.full((shape[0],), num_targets, device="cuda"))
    out = kernels.drop(x, centres, scale, 2, False)
    expected = wide * scale[:, :, None, None]
    kept = out != 0
    torch.testing.assert_close(out[kept].double(), expected[kept], rtol=1e-6, atol=0)
    assert int((~kept).sum()) == int(area.sum())


@pytest.mark.gpu
@in_each_format
def test_a_map_of_more_than_two_to_the_31_units_is_dropped_in_at_its_end(memory_format):
    shape = 2**31 // (64 * 64 * 64) + 3, 64, 64, 64
    x = torch.empty(shape, device="cuda", dtype=torch.bfloat16, memory_format=FORMATS[memory_format]).fill_(1)
    x[-1, 5, 40, 40] = 2
    means, peaks = kernels.squeeze(x, False)
    assert int(peaks[-1, 5]) == 40 * 64 + 40
    centres, scale, area = kernels.choose(means, peaks, 1, 64, 64, 1, "channel")
    out = kernels.drop(x, centres, scale, 1, False)
    assert int(centres[-1, 5]) == 40 * 64 + 40
    assert int((out[-1] == 0).sum()) == int(area[-1]) == 9
    assert int((out[0] == 0).sum()) == int(area[0]) == 4
