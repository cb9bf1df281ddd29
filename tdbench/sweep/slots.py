"""How many trials run at once on this machine, and what each may use."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tdbench.config import HardwareConfig
from tdbench.errors import ConfigError, DeviceError
from tdbench.sweep import lab

MEMORY_OF_A_TRIAL = 2 * 2**30  # bytes, with room: what `--jobs` counts on where it is not given
GPUS = "CUDA_VISIBLE_DEVICES"
MOST_JOBS = 8  # likewise


@dataclass(frozen=True)
class Slots:
    """The places for trials: the environment of each, the CPU threads of each, and its share of a GPU."""

    environments: list[dict[str, str]]
    threads: int | None
    gpu_share: float


def plan_slots(hardware: HardwareConfig, jobs: int | None, gpus: Sequence[str] | None, per_gpu: int) -> Slots:
    """Return the places for trials.

    On CUDA they are `per_gpu` on each of `gpus`, through CUDA_VISIBLE_DEVICES; elsewhere `jobs`, which share the
    threads. Not given, `jobs` is a trial for each core, but no more than the memory bears.

    Raises:
        ConfigError: torchrun started several sweeps; or GPUs are named that a run on another device, or on one GPU by
            its number, does not use.
        DeviceError: There is no such device, or no such GPU.
    """
    if os.environ.get("WORLD_SIZE", "") not in ("", "1"):
        raise ConfigError(
            "a sweep spreads its trials over processes and GPUs itself; start it without torchrun and its WORLD_SIZE"
        )
    device, num_gpus = "cpu", 0
    if hardware.device != "cpu":
        device, num_gpus = lab.ask("tdbench.training.ahead:device", hardware.model_dump(mode="json"))
    if gpus is not None and (device != "cuda" or ":" in hardware.device):
        where = hardware.device if hardware.device != "auto" else f"auto, which is {device} here"
        raise ConfigError(f"--gpus must be left out for --device {where}, got {','.join(gpus)}")
    num_cores = available_cores()
    if device == "cuda" and ":" not in hardware.device:
        visible = visible_gpus(num_gpus)
        strangers = [gpu for gpu in gpus or () if gpu not in visible]
        if strangers:
            raise DeviceError(f"--gpus {','.join(strangers)}: this machine has {', '.join(visible)}")
        environments = [{GPUS: gpu} for _ in range(per_gpu) for gpu in gpus or visible]
        share = 1 / per_gpu
    elif device == "cpu":
        fitting = max(1, min(num_cores, MOST_JOBS, total_memory() // MEMORY_OF_A_TRIAL))
        environments, share = [{} for _ in range(jobs or fitting)], 0.0
    else:
        environments, share = [{} for _ in range(jobs or per_gpu)], 1 / (jobs or per_gpu)
    threads = hardware.threads or max(1, num_cores // len(environments))
    return Slots(environments, threads, share)


def visible_gpus(count: int) -> list[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = os.environ.get(GPUS)
    return named.split(",") if named else [str(number) for number in range(count)]


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int:
    """Return the machine's memory in bytes, which does not change between two calls as the free memory does."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return MEMORY_OF_A_TRIAL
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
