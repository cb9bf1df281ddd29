"""What a call asks for: operators, values read back, memory, arithmetic, graph breaks."""

import pytest
import torch
from torch import nn

from tdbench.profiling.layer import Floor
from tdbench.profiling.trace import count_work, graph_breaks, profiled

CPU = torch.device("cpu")
MIB = 2**18  # fp32 numbers


def both_ways(layer, x):
    return lambda: torch.autograd.grad(layer(x), x, torch.ones_like(x))


def test_the_floor_is_a_multiplication_each_way_and_holds_what_it_puts_out():
    x, grad = torch.randn(2 * MIB, requires_grad=True), torch.ones(2 * MIB)
    seen = profiled(lambda: torch.autograd.grad(Floor()(x), x, grad), CPU)
    assert (seen.launches, seen.host_syncs) == (2, 0)
    assert seen.peak_mem_mib == pytest.approx(4.0, abs=0.01)


def test_views_launch_nothing():
    x = torch.randn(8, 8)
    assert profiled(lambda: x.view(64).unsqueeze(0).expand(3, 64)[1:].t(), CPU).launches == 0


def test_each_value_that_is_read_back_is_a_host_sync():
    x = torch.randn(8)
    assert profiled(lambda: (x.sum().item(), bool(x.max() > 0), x.nonzero()), CPU).host_syncs == 3


def test_memory_that_a_call_leaves_to_the_next_does_not_count_twice():
    held = [torch.empty(MIB)]

    def replace():
        held[0] = torch.ones(MIB)  # the old one goes when the new one is there

    assert profiled(replace, CPU).peak_mem_mib == pytest.approx(1.0, abs=0.01)


def test_the_work_of_a_matrix_product_is_2n3_and_its_traffic_three_matrices():
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    work = count_work(lambda: left @ right)
    assert work.gflop == pytest.approx(2 * 64**3 / 1e9)
    assert work.gb == pytest.approx(3 * 64 * 64 * 4 / 1e9)
    assert work.num_operators == 1


def test_the_work_of_a_step_counts_its_backward():
    layer, x = nn.Linear(32, 32, bias=False), torch.randn(16, 32, requires_grad=True)
    assert count_work(lambda: layer(x).sum().backward()).gflop == pytest.approx(3 * 2 * 16 * 32 * 32 / 1e9)


class Reading(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x * 3


class Broken(nn.Module):
    def forward(self, x):
        torch._dynamo.graph_break()
        return x * 2


def test_graph_breaks_are_counted_and_not_told(capfd):
    x = torch.ones(4, requires_grad=True)
    assert [graph_breaks(layer, x) for layer in (Floor(), Broken(), Reading())] == [0, 1, 1]
    assert "Graph break" not in "".join(capfd.readouterr())


@pytest.mark.gpu
def test_on_a_gpu_kernels_waits_and_memory_are_the_device_s():
    device = torch.device("cuda")
    x = torch.randn(2 * MIB, device=device, requires_grad=True)
    both_ways(Floor(), x)()
    seen = profiled(both_ways(Floor(), x), device)
    assert (seen.launches, seen.host_syncs) == (3, 0)  # ones_like is the third
    assert seen.peak_mem_mib == pytest.approx(6.0, abs=0.1)
    assert profiled(lambda: x.sum().item(), device).host_syncs == 1
