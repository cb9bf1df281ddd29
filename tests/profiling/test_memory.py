"""Memory that ends is told from other errors, and ends before the system kills the process."""

from pathlib import Path

import pytest
import torch

from tdbench.profiling import memory
from tdbench.profiling.memory import available_bytes, is_out_of_memory, last_cache_bytes, memory_limit

CPU = torch.device("cpu")
on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Unable to find an engine to execute this computation"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_the_end_of_memory_is_known_by_its_type_or_its_words(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError("x")]
)
def test_other_errors_are_none(error):
    assert not is_out_of_memory(error)


def test_what_torch_raises_for_an_impossible_allocation_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@on_linux
def test_within_the_limit_an_allocation_that_would_take_too_much_fails_and_after_it_no_more():
    free = available_bytes(CPU)
    with memory_limit(CPU, share=0.1):
        torch.empty(free // 20, dtype=torch.uint8)
        with pytest.raises(RuntimeError) as caught:
            torch.empty(free // 5, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert torch.empty(free // 5, dtype=torch.uint8).nbytes == free // 5  # untouched, so that none of it is taken


@on_linux
def test_the_limit_is_lifted_when_what_it_guards_fails():
    import resource

    def fail():
        with memory_limit(CPU):
            assert resource.getrlimit(resource.RLIMIT_DATA) != before
            raise KeyError

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(KeyError):
        fail()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@on_linux
def test_a_container_s_limit_counts_where_it_is_the_smaller(tmp_path, monkeypatch):
    free = available_bytes(CPU)

    class Rooted(type(tmp_path)):
        def __new__(cls, path):
            return tmp_path if str(path) == "/sys/fs/cgroup" else type(tmp_path)(path)

    monkeypatch.setattr(memory, "Path", Rooted)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_bytes(CPU) > free // 2
    (tmp_path / "memory.max").write_text("3000000\n")
    assert available_bytes(CPU) == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert available_bytes(CPU) == 2_500_000


def test_the_last_cache_has_a_plausible_size():
    assert 2**18 <= last_cache_bytes(CPU) <= 2**31
