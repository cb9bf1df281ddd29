"""The device, precision, memory format and threads of a run."""

import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tdbench.config import HardwareConfig
from tdbench.errors import DeviceError
from tdbench.regularizers.kernels import runs_cpp

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """The hardware settings of a run, with `auto` resolved."""

    device: torch.device
    precision: str  # fp32 | bf16 | fp16
    memory_format: torch.memory_format
    compile: bool
    threads: int

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of a forward pass; it does nothing in fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def of_one_size(self, images: torch.Tensor) -> torch.Tensor:
        """Return a batch; a compiled network takes its shape for fixed, since batches of a kind are all of one size."""
        if self.compile:
            torch._dynamo.mark_static(images)
        return images

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def peak_mem_mib(self) -> float:
        """Return the peak memory of this process so far, in MiB: allocated on the GPU, else resident on the host."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if sys.platform == "win32":
            return float("nan")
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)

    def name(self) -> str:
        """Return the device with the model name of the GPU or CPU."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return f"{self.device} ({cpu_name()})" if self.device.type == "cpu" else str(self.device)


def resolve(config: HardwareConfig, local_rank: int | None = None) -> Hardware:
    """Resolve the configuration on this machine, without changing any global state.

    Args:
        config: The requested hardware.
        local_rank: The number of this process on this machine, where several train one network.

    Raises:
        DeviceError: The device does not exist, or has no arithmetic of the requested precision.
    """
    device = find_device(config.device, local_rank)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision fp16 needs a GPU; on the CPU use bf16 or fp32")
    if precision == "bf16" and device.type == "cuda" and not has_fast_bf16(device):
        raise DeviceError(f"precision bf16 is not supported by {torch.cuda.get_device_name(device)}; use fp16 or fp32")
    memory_format = torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format
    return Hardware(device, precision, memory_format, config.compile, config.threads or torch.get_num_threads())


def find_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device of this name; `auto` is the first GPU, else Apple's, else the CPU.

    Where several processes train one network, each takes the GPU of its own number.

    Raises:
        DeviceError: This machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if local_rank is not None and (device.type == "mps" or device.index is not None):
        raise DeviceError(
            f"device {name} is a single one, and each of several processes needs its own; use cuda, where each takes "
            "the GPU of its number, or cpu"
        )
    if device.type == "cuda":
        index = device.index or local_rank or 0
        count = num_gpus()
        if count == 0:
            raise DeviceError("device cuda: there is no CUDA GPU here that torch can use; --device cpu runs on the CPU")
        if index >= count:
            raise DeviceError(f"device cuda:{index}: this machine has {count} CUDA GPU(s), cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps: torch finds no Apple GPU here; --device cpu runs on the CPU")
    return device


def num_gpus() -> int:
    """Return how many CUDA GPUs torch can use here."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 natively; elsewhere bf16 is slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # is_bf16_supported asks the current device
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & set(cpu_flags()))


def activate(hardware: Hardware, deterministic: bool) -> None:
    """Configure the process: threads, determinism, fast kernels. Called once, before the first tensor of a run."""
    torch.set_num_threads(hardware.threads)
    if hardware.device.type == "cuda":  # deterministic runs require it, and cuBLAS reads it once in a process
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it costs a second even without a change
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if hardware.device.type == "cuda":
        torch.cuda.set_device(hardware.device)
        torch.cuda.reset_peak_memory_stats(hardware.device)


def describe_machine(hardware: Hardware) -> dict[str, Any]:
    """Return the facts of the machine that affect measurements, for `environment.json`."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    flags = cpu_flags()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "device": str(hardware.device),
        "device_name": hardware.name(),
        "cuda": torch.version.cuda if hardware.device.type == "cuda" else None,
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "cpu_flags": [flag for flag in wanted if flag in flags],
        "threads": hardware.threads,
        "precision": hardware.precision,
        "memory_format": str(hardware.memory_format).removeprefix("torch."),
        "compile": hardware.compile,
        "cpp_kernels": runs_cpp(),
    }


def cpu_flags() -> list[str]:
    """Return the CPU's instruction-set flags as Linux names them, or an empty list elsewhere."""
    return _cpu_field("flags").split() or _cpu_field("Features").split()


def cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _cpu_field(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
