"""How much memory is available, and how to run out of it without being killed."""

import ctypes
import gc
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

OOM = "OOM"  # the status of what ran out of memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h
MIB = 2**20
DEFAULT_CACHE_BYTES = 32 * 2**20
_MESSAGES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "unable to find an engine to execute this computation",  # cuDNN, where no workspace fits any more
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python raised an error because memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)


def attempt(action: Callable[[], T], device: torch.device) -> T | None:
    """Return an action's result; None if it runs out of memory, after freeing what it held."""
    try:
        return action()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release(device)
    return None


def release(device: torch.device) -> None:
    """Free unused memory, in Python and in the device's allocator cache."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def has_regimes(device: torch.device) -> bool:
    """Return whether freed memory can be kept here or given back, as is wanted: on a CPU with glibc."""
    return device.type == "cpu" and platform.libc_ver()[0] == "glibc"


def keep_freed_memory(device: torch.device) -> None:
    """Where there are regimes, keep freed memory in the process for later allocations, from now on."""
    if has_regimes(device):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory(device: torch.device) -> None:
    """Where there are regimes, give freed memory back as glibc does once its own thresholds have risen, from now on."""
    if has_regimes(device):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 2**16)
        mallopt(M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(M_TRIM_THRESHOLD, 64 * MIB)


def available_bytes(device: torch.device) -> int | None:
    """Return the free memory of the device, on a CPU the host's or the container's; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or (available := _field(Path("/proc/meminfo"), "MemAvailable")) is None:
        return None
    group = Path("/sys/fs/cgroup")
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is None or used is None:
        return available
    reclaimable = _field(group / "memory.stat", "inactive_file") or 0
    return min(available, max(0, limit - used + reclaimable))


@contextmanager
def memory_limit(device: torch.device, share: float = 0.8) -> Iterator[None]:
    """On a CPU, make allocations fail beyond a share of the memory now free, before the system kills a process.

    Linux overcommits memory and then kills a process; with the limit, torch raises an error instead, as it does on a
    GPU. Elsewhere, and where the free memory is unknown, this does nothing.
    """
    free, held = available_bytes(device), _field(Path("/proc/self/status"), "VmData")
    if device.type != "cpu" or free is None or held is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [held + int(share * free), *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def last_cache_bytes(device: torch.device) -> int:
    """Return the size of the last-level cache: a GPU's L2, a CPU's L3; 32 MiB where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    if device.type != "cpu" or sys.platform != "linux":
        return DEFAULT_CACHE_BYTES
    sizes = (_number(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return max((size for size in sizes if size is not None), default=DEFAULT_CACHE_BYTES)


def _field(path: Path, name: str) -> int | None:
    """Return the bytes of a field such as `MemAvailable: 123 kB` or `inactive_file 123`, or None."""
    try:
        found = re.search(rf"^{name}:?\s+(\d+)( kB)?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * (1024 if found[2] else 1) if found else None


def _number(path: Path) -> int | None:
    """Return the bytes in a file such as `32768K` or `123`, or None for `max` or a missing file."""
    try:
        found = re.fullmatch(r"(\d+)([KM]?)", path.read_text(encoding="utf-8").strip())
    except OSError:
        return None
    return int(found[1]) * {"": 1, "K": 2**10, "M": 2**20}[found[2]] if found else None
