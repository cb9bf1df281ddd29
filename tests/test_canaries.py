"""Where tdbench leans on the inside of torch or Python: each place still finds what it leans on.

A failure here names the release that broke it and what rests on it, before anything subtle goes wrong elsewhere.
"""

import copy
import ctypes
import pickle
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from tdbench.models.build import build
from tdbench.models.insertion import RegularizedReLU
from tdbench.models.sites import insert
from tdbench.regularizers.base import has_hooks
from tdbench.training.optimizer import bare

VERSION = f"torch {torch.__version__}"


def test_exchanging_the_class_of_a_relu_in_place_still_works():
    """models/insertion.py: a ReLU is a RegularizedReLU while it is a site; copies and pickles of the network work."""
    network = build("resnet8", 10, 1)
    sites = insert(network, "targetdrop", ["stage1"], image_shape=(1, 32, 32))
    host = network.stage1.block1.relu
    assert type(host) is RegularizedReLU, VERSION
    x = torch.randn(2, 1, 32, 32)
    network.eval()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), network(x)), VERSION
    sites.remove()
    assert type(host) is nn.ReLU, VERSION


@pytest.mark.parametrize(
    "register",
    [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module.register_forward_pre_hook(lambda *_: None),
        lambda module: module.register_full_backward_hook(lambda *_: None),
        lambda module: module.register_full_backward_pre_hook(lambda *_: None),
        lambda module: nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda module: nn.modules.module.register_module_forward_pre_hook(lambda *_: None),
        lambda module: nn.modules.module.register_module_full_backward_hook(lambda *_: None),
    ],
)
def test_every_kind_of_hook_is_seen(register):
    """regularizers/base.py: the dictionaries of hooks, which nn.Module does not show by a method."""
    module = nn.Identity()
    assert not has_hooks(module), VERSION
    handle = register(module)
    assert has_hooks(module), VERSION
    handle.remove()
    assert not has_hooks(module), VERSION


def test_a_function_marked_constant_is_not_traced():
    """regularizers/targetdrop/fused.py: what torch.compiler.assume_constant_result does, without importing it."""
    from tdbench.regularizers.targetdrop.fused import runs_triton

    marked = torch.compiler.assume_constant_result(lambda: None)
    assert {name for name in vars(marked) if "constant" in name} == {"_dynamo_marked_constant"}, VERSION
    assert runs_triton._dynamo_marked_constant, VERSION


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
def test_an_optimizer_out_of_its_wrappers_does_what_torch_s_does_and_imports_no_compiler(kind):
    """training/optimizer.py: the methods under torch's wrappers, reached by functools' __wrapped__."""
    wrapped = getattr(torch.optim, kind)
    for name in ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict"):
        assert hasattr(getattr(wrapped, name), "__wrapped__"), f"{VERSION}: {name} has no wrapper any more"
    both = []
    for made in (bare(wrapped), wrapped):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer = made(layer.parameters(), lr=0.1, weight_decay=1e-3)
        for number in range(3):
            optimizer.zero_grad(set_to_none=True)
            layer(torch.ones(4, 3) * number).square().sum().backward()
            optimizer.step()
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        both.append((layer.weight, layer.bias, state["param_groups"]))
    assert torch.equal(both[0][0], both[1][0]), VERSION
    assert torch.equal(both[0][1], both[1][1]), VERSION
    assert both[0][2] == both[1][2], VERSION
    code = (
        "import sys, torch; from tdbench.training.optimizer import bare; w = torch.nn.Parameter(torch.ones(2))\n"
        f"o = bare(torch.optim.{kind})([w], lr=0.1); w.sum().backward(); o.step(); o.zero_grad(); o.state_dict()\n"
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{VERSION}: {done.stderr}"


def test_kineto_tells_allocations_with_their_time_and_size():
    """profiling/trace.py: the raw events of torch.profiler, in which memory is counted."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        torch.ones(1000)
    events = profiler.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert 4000 in [abs(size) for size in sizes], VERSION
    assert all(event.start_ns() > 0 for event in events), VERSION


def test_the_limit_on_compiling_anew_has_the_name_that_is_changed():
    """profiling/trace.py: every method's layer is compiled by the same code of ours, which torch counts together."""
    from tdbench.profiling.trace import raised_recompile_limit

    with raised_recompile_limit(50):
        limits = [
            value
            for name in ("recompile_limit", "cache_size_limit")
            if isinstance(value := getattr(torch._dynamo.config, name, None), int)
        ]
        assert max(limits) >= 50, VERSION


def test_a_gpu_can_be_told_to_wait():
    """profiling/timing.py: torch.cuda._sleep keeps a GPU busy while the host fills its queue."""
    assert callable(torch.cuda._sleep), VERSION


@pytest.mark.slow
def test_multiprocessing_still_reads_the_main_module_s_file_and_spec(tmp_path):
    """sweep/lab.py: processes must not run the caller's script again, though it has no `if __name__` guard."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once', flush=True)\nfrom tdbench.sweep import lab\nprint(lab.ask('operator:add', 1, 2), flush=True)\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "once\n3\n", f"Python {platform.python_version()}: {done.stdout}{done.stderr}"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_the_two_options_that_keep_freed_memory():
    """profiling/memory.py: page faults of a freed map would be counted as the floor's."""
    from tdbench.profiling.memory import M_MMAP_MAX, M_TRIM_THRESHOLD

    code = (
        f"import ctypes; m = ctypes.CDLL(None).mallopt; assert m({M_MMAP_MAX}, 0) and m({M_TRIM_THRESHOLD}, 2**31 - 1)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, ctypes.CDLL(None)
