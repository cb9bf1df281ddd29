"""A layer alone against the floor: plausible ratios, inputs that no cache holds, and cells that say OOM."""

import platform
import resource
from functools import partial
from statistics import median

import pytest
import torch
from torch import nn

from tdbench.profiling import layer as layer_module
from tdbench.profiling.layer import LAYER_COLUMNS, Setting, profile_layers
from tdbench.profiling.memory import keep_freed_memory
from tdbench.profiling.timing import MeasurementFailed
from tdbench.store.profiles import FLOOR

CPU = torch.device("cpu")
SHAPE = (16, 16, 32, 32)


class Chain(nn.Module):
    """Twenty times the floor and more."""

    def __init__(self, channels, number=20):
        super().__init__()
        self.number = number

    def forward(self, x):
        for _ in range(self.number):
            x = x * 1.01
        return x * 1.01


class Greedy(nn.Module):
    """Runs out of memory in its `fails_in`-th forward."""

    def __init__(self, fails_in):
        super().__init__()
        self.left = fails_in

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x * 2


class Pass(nn.Module):
    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def costs():
    factories = {
        "chain": Chain,
        "none": lambda channels: Pass(),
        "at once": lambda channels: Greedy(0),
        "later": lambda channels: Greedy(30),
        "cannot be built": lambda channels: torch.empty(2**60),
    }
    measured = profile_layers(factories, SHAPE, Setting(CPU), seconds=0.3, turns=6)
    return {cost.method: cost for cost in measured}


def test_the_floor_comes_first_and_every_layer_has_a_row(costs):
    assert list(costs) == [FLOOR, "chain", "none", "at once", "later", "cannot be built"]


@pytest.mark.parametrize("method", [FLOOR, "chain", "none"])
def test_the_figures_of_a_layer_fit_together(costs, method):
    figures = costs[method].figures()
    assert set(figures) <= set(LAYER_COLUMNS)
    assert (figures["status"], figures["n"], figures["graph_breaks"], figures["host_syncs"]) == ("ok", 6, 0, 0)
    assert 0 < figures["p20_ms"] <= figures["total_ms"] <= figures["p80_ms"]
    assert figures["forward_ms"] > 0
    assert figures["backward_ms"] is None or figures["backward_ms"] >= 0  # None: noise has left nothing for it


def test_the_floor_is_its_own_measure(costs):
    assert costs[FLOOR].floor_ratio == 1.0
    nbytes = 4 * 4 * 16 * 16 * 32 * 32
    assert costs[FLOOR].gb_per_s == pytest.approx(nbytes / costs[FLOOR].figures()["total_ms"] / 1e6, rel=1e-3)


def test_a_layer_that_does_twenty_times_as_much_is_several_times_as_slow_and_one_that_does_nothing_is_faster(costs):
    assert costs["chain"].floor_ratio > 3
    assert costs["none"].floor_ratio < 0.5


def test_a_layer_that_hands_on_its_input_moves_no_useful_bytes(costs):
    assert costs["none"].gb_per_s is None
    assert costs["none"].peak_mem_mib == 0


@pytest.mark.parametrize("method", ["at once", "later", "cannot be built"])
def test_a_layer_that_runs_out_of_memory_is_a_row_that_says_so(costs, method):
    assert costs[method].figures() == {"method": method, "status": "OOM", "n": 0}


def test_where_the_maps_do_not_fit_every_row_says_so(monkeypatch):
    def full(*arguments):
        raise MemoryError

    monkeypatch.setattr(layer_module._Inputs, "_map", full)
    costs = profile_layers({"none": lambda channels: Pass()}, SHAPE, Setting(CPU), 0.1)
    assert [(cost.method, cost.status) for cost in costs] == [(FLOOR, "OOM"), ("none", "OOM")]


@pytest.mark.slow
def test_every_layer_is_compiled_however_many_share_its_code(monkeypatch):
    num_compiled = 0

    def backend(graph, inputs):
        nonlocal num_compiled
        num_compiled += 1
        return graph.forward

    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: setattr(self, "_compiled_call_impl", compiled(self))
    )

    def compiled(module):
        return torch.compile(module._call_impl, backend=backend, dynamic=False)

    factories = {f"chain {number}": partial(Chain, number=number) for number in range(12)}
    profile_layers(factories, (2, 3, 4, 4), Setting(CPU, compile=True), seconds=0.01, turns=1)
    assert num_compiled >= 13  # and the floor


def test_what_a_layer_meets_is_what_its_row_says(monkeypatch):
    seen = set()

    class Look(nn.Module):
        def forward(self, x):
            form = "nchw" if x.is_contiguous() else "channels_last"
            seen.add((x.dtype, form, torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
            return x * 1.5

    setting = Setting(CPU, torch.bfloat16, torch.channels_last)
    profile_layers({"look": lambda channels: Look()}, (2, 3, 4, 4), setting, seconds=0.01, turns=1)
    assert seen == {(torch.bfloat16, "channels_last", True, True)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators")
def test_the_floor_is_not_that_of_the_system_giving_memory():
    keep_freed_memory(CPU)
    x = torch.ones(2**23)  # 32 MiB, which glibc would give back to the system each time
    page_faults = []
    for _ in range(30):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        x * 1.5
        page_faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # Some of the first calls still grow the heap: a freed map with a small block behind it is too short for the next
    # aligned one. What is reported is a median too.
    assert median(page_faults) < 1000  # of 8192 pages


def test_an_error_of_a_layer_s_own_is_not_taken_for_the_end_of_memory():
    with pytest.raises(MeasurementFailed, match=r"while measuring broken: RuntimeError: .*to have 17 channels"):
        profile_layers({"broken": lambda channels: nn.Conv2d(channels + 1, 3, 1)}, SHAPE, Setting(CPU), 0.1)


def test_the_maps_rotate_through_more_memory_than_the_last_cache(monkeypatch):
    monkeypatch.setattr(layer_module, "last_cache_bytes", lambda device: 10 * 2**20)
    inputs = layer_module._Inputs(SHAPE, Setting(CPU))
    num_pairs = len(inputs.pairs)
    seen = [inputs.next() for _ in range(num_pairs + 1)]
    assert len({x.data_ptr() for x, _ in seen}) == num_pairs
    assert seen[0] is seen[-1]
    assert sum(x.nbytes + grad.nbytes for x, grad in inputs.pairs) > 10 * 2**20


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_maps_come_in_the_form_that_is_asked_for_after_a_relu(dtype, layout):
    x, grad = layer_module._Inputs((2, 4, 5, 6), Setting(CPU, dtype, layout)).next()
    for values in (x, grad):
        assert (values.dtype, values.shape) == (dtype, (2, 4, 5, 6))
        assert values.is_contiguous(memory_format=layout)
    assert x.min() == 0
    assert grad.min() < 0


def test_the_layer_s_own_weights_get_their_gradient_too():
    seen = []

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.weight.register_hook(lambda grad: seen.append(float(grad)))

        def forward(self, x):
            return x * self.weight

    profile_layers({"scaled": lambda channels: Scaled()}, (2, 2, 4, 4), Setting(CPU), 0.01)
    assert seen


def test_a_half_type_meets_the_layer_under_autocast_as_in_training():
    factories = {"convolution": lambda channels: nn.Conv2d(channels, channels, 1)}  # fp32 weights would not fit
    _, cost = profile_layers(factories, (2, 4, 8, 8), Setting(CPU, torch.bfloat16), seconds=0.01)
    assert (cost.status, cost.graph_breaks) == ("ok", 0)


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_on_a_gpu_the_floor_has_bandwidth_and_launches(compile):
    setting = Setting(torch.device("cuda"), torch.bfloat16, torch.channels_last, compile)
    floor, chain = profile_layers({"chain": Chain}, (64, 64, 32, 32), setting, seconds=0.2)
    assert floor.gb_per_s > 50
    assert floor.launches == 2
    assert floor.host_syncs == 0
    assert (chain.floor_ratio < 3) == compile
