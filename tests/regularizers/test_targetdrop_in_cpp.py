"""The C++ of TargetDrop: where it applies, and what only it could get wrong."""

import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code
from torch.library import opcheck
from torch.testing import assert_close

from tdbench import TargetDrop2d, insert, target_drop2d
from tdbench.regularizers import kernels
from tdbench.regularizers.targetdrop import fused
from tdbench.regularizers.targetdrop.targets import choose_windows, top_channels
from tdbench.regularizers.targetdrop.windows import scales
from tests.oracles import targetdrop as oracle
from tests.oracles.targetdrop import draw_values
from tests.regularizers.feature_maps import FORMATS, assert_same, feature_map

in_each_format = pytest.mark.parametrize("memory_format", FORMATS)
in_each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def test_it_is_built_where_there_is_a_compiler():
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    if sys.platform != "linux" or shutil.which("g++") is None or not headers.exists():
        pytest.skip("nothing to build it with")
    assert fused.runs_cpp()


@pytest.fixture
def cpp():
    """Return the module of its operators, if it was built."""
    return pytest.importorskip("tdbench.regularizers.targetdrop.cpu")


def plainly(monkeypatch, function):
    """Return what a function gives by the plain form."""
    with monkeypatch.context() as patch:
        patch.setenv("TDBENCH_CPP", "0")
        return function()


# Odd, single pixels, one channel, fewer and more positions and channels than lanes, one sample, and more than a thread.
SHAPES = [(2, 5, 7, 6), (1, 9, 1, 1), (2, 1, 5, 4), (1, 2, 67, 63), (3, 33, 8, 4), (2, 64, 4, 8), (40, 32, 6, 6)]


@pytest.mark.usefixtures("cpp")
@in_each_dtype
@in_each_format
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("block_size", [1, 5, 99])
def test_the_map_and_the_gradient_are_those_of_the_plain_form(monkeypatch, shape, memory_format, dtype, block_size):
    x = feature_map(shape, "cpu", memory_format, dtype).requires_grad_()
    upstream = feature_map(shape, "cpu", memory_format, dtype, ["normal"], seed=1)
    scores = draw_values("ties", shape[:2], 2).float()

    def both():
        out = target_drop2d(x, scores, 0.5, block_size)
        return out.detach(), *torch.autograd.grad(out, x, upstream)

    for actual, expected in zip(both(), plainly(monkeypatch, both), strict=True):
        assert_same(actual, expected)


@in_each_format
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_peaks_are_the_first_maxima_and_nan_is_none(cpp, memory_format, relu):
    """A window of one pixel in each channel shows where it found the peak."""
    x = feature_map((4, 40, 9, 5), "cpu", memory_format)
    out, _ = cpp.target_drop(x, x.new_zeros(4, 40), None, 40, 0, "none", relu)
    active = x.relu() if relu else x
    touched = (out != active) & ~(out.isnan() & active.isnan())
    for planes, zeros, marks in zip(active.tolist(), out.tolist(), touched.tolist(), strict=True):
        for plane, zero, mark in zip(planes, zeros, marks, strict=True):
            row, col = oracle.peak(plane)
            assert zero[row][col] == 0
            others = [(i, j) for i in range(9) for j in range(5) if mark[i][j] and (i, j) != (row, col)]
            assert others == []


@in_each_format
def test_the_attention_is_that_of_the_plain_form(cpp, memory_format):
    """With as many blocks of lanes and left over as there can be, and one window for the most attended channel."""
    torch.manual_seed(0)
    for channels in (1, 31, 32, 70, 130):
        layer = TargetDrop2d(channels)
        x = torch.rand(3, channels, 6, 7).contiguous(memory_format=FORMATS[memory_format])
        weights = layer.fc1, layer.fc2
        for scores, best in ((None, layer.scores(x)), (torch.randn(3, channels), None)):
            out, num_dropped = cpp.target_drop(x, scores, weights, 1, 99, "none", False)
            expected = top_channels(scores if best is None else best, 1)
            assert torch.equal((out == 0).all(dim=(2, 3)).nonzero()[:, 1:], expected)
            assert num_dropped == 3 * 6 * 7
        out, _ = cpp.target_drop(x, None, None, 1, 99, "none", False)
        assert torch.equal((out == 0).all(dim=(2, 3)).nonzero()[:, 1:], top_channels(x.mean(dim=(2, 3)), 1))


@pytest.mark.parametrize("kind", ["normal", "ties", "nan", "infinite"])
def test_channels_rank_as_in_the_plain_form(cpp, kind):
    scores = draw_values(kind, (50, 37), 0).float()
    for num_targets in (1, 7, 36, 37):
        out, _ = cpp.target_drop(torch.ones(50, 37, 1, 1), scores, None, num_targets, 0, "none", False)
        targets = (out == 0).flatten(1).nonzero()[:, 1].view(50, num_targets)
        assert torch.equal(targets, top_channels(scores, num_targets).sort(dim=1).values)


def test_zeros_of_either_sign_tie_and_nothing_else_does(cpp):
    scores = torch.tensor([[-0.0, 0.0, 1e-45, -0.0, 0.0, -1e-45]])
    for num_targets in range(1, 7):
        out, _ = cpp.target_drop(torch.ones(1, 6, 1, 1), scores, None, num_targets, 0, "none", False)
        expected = [2, 0, 1, 3, 4, 5][:num_targets]
        assert (out == 0).flatten().nonzero().flatten().tolist() == sorted(expected)


@in_each_format
def test_means_that_are_infinite_rank_as_in_the_plain_form(cpp, memory_format):
    """Two infinite means make logits of infinity less infinity, which is NaN, and NaN outranks all."""
    for seed in range(20):
        torch.manual_seed(seed)
        layer, x = TargetDrop2d(40), torch.rand(2, 40, 3, 3).contiguous(memory_format=FORMATS[memory_format])
        x[0, 3, 1, 1] = x[0, 35, 0, 2] = torch.inf
        out, _ = cpp.target_drop(x, None, (layer.fc1, layer.fc2), 5, 9, "none", False)
        targets = (out == 0).all(dim=(2, 3)).nonzero()[:, 1].view(2, 5)
        assert torch.equal(targets, top_channels(layer.scores(x), 5).sort(dim=1).values)


@in_each_format
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_a_half_type_is_scaled_in_single_precision_and_rounded_to_even(cpp, memory_format, relu):
    x = torch.randn(3, 40, 9, 7).to(torch.bfloat16).contiguous(memory_format=FORMATS[memory_format]).requires_grad_()
    scores = torch.rand(3, 40)
    windows = choose_windows(x.detach().relu() if relu else x.detach(), scores, 1.0, 3, None, "peak", None)
    scale = scales(x, windows, "channel")[:, :, None, None]
    assert len(scale.unique()) > 2
    out, _ = cpp.target_drop(x, scores, None, 40, 1, "channel", relu)
    (grad,) = torch.autograd.grad(out.float().sum(), x)
    kept = out != 0
    assert torch.equal(out[kept], (x.detach().float() * scale).to(torch.bfloat16)[kept])
    assert torch.equal(grad[kept], scale.to(torch.bfloat16).expand_as(x)[kept])


@in_each_dtype
@in_each_format
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_gradients_of_gradients_are_right(cpp, dtype, memory_format, relu):
    """The layer is linear in what it keeps, so that the gradient of ⟨gradient, v⟩ by the upstream is the layer of v."""
    x = feature_map((2, 8, 5, 6), "cpu", memory_format, dtype, ["normal"]).requires_grad_()
    upstream = torch.ones_like(x).requires_grad_()
    out, _ = cpp.target_drop(x, torch.rand(2, 8), None, 3, 1, "channel", relu)
    (grad,) = torch.autograd.grad(out, x, upstream, create_graph=True)
    v = feature_map((2, 8, 5, 6), "cpu", "nchw", dtype, ["normal"], seed=1)
    (second,) = torch.autograd.grad(grad, upstream, v)
    assert_same(second, (v.float() * grad.float()).to(dtype).contiguous(memory_format=FORMATS[memory_format]))


@pytest.mark.usefixtures("cpp")
def test_the_result_does_not_depend_on_the_threads():
    layer, x = TargetDrop2d(24, 0.4), torch.randn(64, 24, 9, 9)
    outs, threads = [], torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        outs.append(layer.drop(x))
    torch.set_num_threads(threads)
    for out, num_dropped in outs[1:]:
        assert torch.equal(out, outs[0][0])
        assert num_dropped == outs[0][1]


def test_threads_count_together_what_they_drop(cpp):
    x, threads = torch.ones(50_000, 8, 1, 1), torch.get_num_threads()
    torch.set_num_threads(4)
    counts = [cpp.target_drop(x, x[:, :, 0, 0], None, 3, 0, "none", False)[1].item() for _ in range(20)]
    torch.set_num_threads(threads)
    assert counts == [3 * 50_000] * 20


@pytest.mark.slow
def test_vectors_of_every_width_give_the_same_bits(cpp, monkeypatch, tmp_path):
    """The binary that pip built takes the widest that the machine has; here is one for the narrowest alone."""
    source, include = Path(cpp.__file__).with_suffix(".cpp"), sysconfig.get_paths()["include"]
    narrow = tmp_path / "_cpu.so"
    flags = [
        "-std=c++17",
        "-O3",
        "-fopenmp",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-DFOR_EACH_CPU=",
        f"-I{include}",
    ]
    subprocess.run(["g++", *flags, f"-I{include}", str(source), "-o", str(narrow)], check=True)
    loader = ExtensionFileLoader("_cpu", str(narrow))
    module = module_from_spec(spec_from_file_location("_cpu", narrow, loader=loader))
    for dtype in (torch.float32, torch.bfloat16):
        for memory_format in FORMATS.values():
            layer = TargetDrop2d(70, 0.3)
            x = torch.randn(5, 70, 13, 11).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
            results = []
            for built in (cpp.cpp, module):
                monkeypatch.setattr(cpp, "cpp", built)
                out = layer(x)
                results.append((out, *torch.autograd.grad(out.float().square().sum(), x)))
            assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_targets": 9}, "num_targets must be between 1 and C = 8, got 9"),
        ({"num_targets": 0}, "num_targets must be between 1 and C = 8, got 0"),
        ({"scores": torch.rand(2, 7)}, r"scores must be \(2, 8\), got \(2, 7\)"),
        ({"weights": (torch.rand(4, 7), torch.rand(8, 4))}, r"W1 must be \(4, 8\), got \(4, 7\)"),
        ({"weights": (torch.rand(4, 8), torch.rand(8, 3))}, r"W2 must be \(8, 4\), got \(8, 3\)"),
        ({"x": torch.rand(2, 8, 5, 5, dtype=torch.float64)}, "x must be fp32 or bf16, .* got torch.float64"),
        ({"x": torch.rand(2, 8, 5, 10)[..., ::2]}, "contiguous or channels_last, got .* strides"),
    ],
)
def test_addresses_that_do_not_belong_together_are_refused(cpp, change, words):
    arguments = {"x": torch.rand(2, 8, 5, 5), "scores": None, "weights": None, "num_targets": 3}
    with pytest.raises(ValueError, match=words):
        cpp.target_drop(**(arguments | change), radius=1, rescale="channel", relu=False)


def test_a_layer_that_somebody_broke_is_refused_and_reads_nothing(cpp):
    layer, x = TargetDrop2d(8, 0.5), torch.rand(2, 8, 5, 5)
    layer.drop_ratio = 1.5
    with pytest.raises(ValueError, match="num_targets"):
        layer(x)


def test_a_binary_of_another_version_is_not_used(cpp, monkeypatch):
    monkeypatch.setattr(cpp.cpp, "VERSION", 0)
    monkeypatch.delitem(sys.modules, cpp.__name__)
    monkeypatch.setattr(kernels, "imports", kernels.imports.__wrapped__)  # which would remember the other answer
    assert not fused.runs_cpp()
    assert fused.fused_form(torch.rand(2, 8, 5, 5), True) is None


@pytest.mark.usefixtures("cpp")
def test_other_default_types_and_devices_change_nothing():
    layer, x = TargetDrop2d(4, 0.5), torch.randn(2, 4, 5, 5)
    expected = layer(x)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            out = layer(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(out, expected)


@pytest.mark.usefixtures("cpp")
def test_weights_of_any_type_do():
    layer, x = TargetDrop2d(12, 0.3), torch.randn(2, 12, 5, 5)
    assert torch.equal(layer.double()(x), TargetDrop2d.drop(layer.float(), x)[0])


# Compiled


def network(memory_format) -> nn.Module:
    """Return a network with the layer after a ReLU, which it takes with it, and after a convolution."""
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 40, 3, bias=False), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 8, 3), nn.Conv2d(8, 5, 3)
    model = nn.Sequential(*parts).to(memory_format=FORMATS[memory_format])
    insert(model, "targetdrop", sites=["2", "3"], image_shape=(3, 9, 11), drop_ratio=0.3, block_size=3)
    return model.train()


@pytest.mark.slow
@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize(("memory_format", "dtype"), [("channels_last", torch.float32), ("nchw", torch.bfloat16)])
def test_a_compiled_network_calls_it_forward_and_backward_and_is_the_eager_one(memory_format, dtype):
    torch.compiler.reset()
    model = network(memory_format)
    x = torch.randn(6, 3, 9, 11).contiguous(memory_format=FORMATS[memory_format]).requires_grad_()

    def step(call):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            out = call(x)
        return out, *torch.autograd.grad(out.float().square().sum(), [x, *model.parameters()])

    actual, graphs = run_and_get_code(step, torch.compile(model, fullgraph=True))
    forward, backward = graphs
    assert forward.count("torch.ops.tdbench_cpu.forward_in_graph.default(") == 2
    assert backward.count("torch.ops.tdbench_cpu.backward_in_graph.default(") == 2
    assert "threshold_backward" not in backward  # nor does a pass go back through the ReLU
    for ours, eager in zip(actual, step(model), strict=True):
        # Batch norm sums in another order, and in bf16 the compiler rounds less often.
        assert (ours - eager).norm().item() <= 16 * torch.finfo(dtype).eps * eager.norm().item()


@pytest.mark.usefixtures("cpp")
@in_each_dtype
@in_each_format
@pytest.mark.parametrize("after_relu", [False, True])
def test_a_compiled_layer_gives_the_bits_of_the_eager_one(memory_format, dtype, after_relu):
    torch.compiler.reset()
    layer = TargetDrop2d(40, 0.3, 3)
    call = layer.after_relu if after_relu else layer
    x = feature_map((3, 40, 6, 5), "cpu", memory_format, dtype).requires_grad_()
    upstream = feature_map(x.shape, "cpu", memory_format, dtype, ["normal"], seed=1)
    results = []
    for function in (torch.compile(call, backend="aot_eager", fullgraph=True), call):
        out = function(x)
        results.append((out, *torch.autograd.grad(out, x, upstream)))
    for actual, expected in zip(*results, strict=True):
        assert actual.stride() == expected.stride()
        assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("cpp")
def test_a_compiler_knows_its_shapes_strides_and_gradients(cpp):
    operators = torch.ops.tdbench_cpu
    for memory_format in FORMATS.values():
        x = torch.randn(3, 8, 6, 5).contiguous(memory_format=memory_format).requires_grad_()
        weights = torch.randn(4, 8), torch.randn(8, 4)
        for relu in (False, True):
            inputs = x, None, *weights, None, 2, 1, "channel", relu
            opcheck(operators.forward_in_graph, inputs)
            opcheck(operators.forward_in_graph, (*inputs[:4], torch.tensor(2), 1, *inputs[6:]))
            out, centres, scale, _ = operators.forward(*inputs)
            opcheck(operators.backward_in_graph, (x, out.detach() if relu else centres, scale, 1, relu))


@pytest.mark.usefixtures("cpp")
def test_a_compiled_gradient_of_a_gradient_is_the_eager_one():
    torch.compiler.reset()
    x, scores = torch.randn(2, 8, 5, 6), torch.rand(2, 8)
    inner = torch.func.grad(lambda x: (target_drop2d(x, scores, 0.3) ** 3).sum())
    outer = torch.func.grad(lambda x: inner(x).square().sum())
    assert_close(torch.compile(outer, backend="aot_eager")(x), outer(x))


# Where it applies


@pytest.mark.usefixtures("cpp")
@in_each_dtype
def test_it_takes_both_memory_orders(dtype):
    x = torch.empty(2, 3, 8, 8, dtype=dtype)
    assert fused.fused_form(x, True) is fused.by_cpp
    assert fused.fused_form(x.to(memory_format=torch.channels_last), True) is fused.by_cpp
    assert fused.fused_form(nn.Parameter(x), True) is fused.by_cpp


class Watched(torch.Tensor):
    """A tensor that sees every operator."""


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize(
    "x",
    [
        torch.empty(2, 3, 8, 8, dtype=torch.float64),
        torch.empty(2, 3, 8, 8, dtype=torch.float16),
        torch.empty(2, 3, 8, 8, device="meta"),
        torch.empty(2, 3, 8, 8)[..., ::2],
        torch.empty(2, 3, 8, 8).as_subclass(Watched),
    ],
    ids=["double", "half", "meta", "strided", "subclass"],
)
def test_the_plain_form_takes_the_rest(x):
    assert fused.fused_form(x, True) is None


@pytest.mark.usefixtures("cpp")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_the_plain_form_takes_what_is_drawn_traced_or_switched_off(monkeypatch):
    x = torch.randn(2, 8, 6, 6)
    assert fused.fused_form(x, False) is None
    traced = torch.jit.trace(TargetDrop2d(8), x, check_trace=False)
    assert "PythonOp" not in str(traced.inlined_graph)
    monkeypatch.setenv("TDBENCH_CPP", "0")
    assert fused.fused_form(x, True) is None
    monkeypatch.delenv("TDBENCH_CPP")
    monkeypatch.setitem(sys.modules, "tdbench.regularizers.targetdrop.cpu", None)
    monkeypatch.setattr(kernels, "imports", kernels.imports.__wrapped__)  # which would remember the other answer
    assert fused.fused_form(x, True) is None


@pytest.mark.usefixtures("cpp")
def test_scores_that_single_precision_cannot_tell_apart_are_ranked_in_double():
    scores = torch.tensor([[1.0, 1.0 + 2**-40]], dtype=torch.float64)
    out = target_drop2d(torch.ones(1, 2, 3, 3), scores, 0.5, 5)
    assert out.sum(dim=(2, 3)).tolist() == [[9, 0]]
