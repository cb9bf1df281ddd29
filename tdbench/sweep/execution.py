"""How the trials of a sweep are run: where, how many at once, and what is run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdbench.config import HardwareConfig
from tdbench.errors import ConfigError, unknown
from tdbench.store.loggers import loggers_named
from tdbench.sweep.executors import Executor, LocalExecutor
from tdbench.sweep.ray_executor import RayExecutor
from tdbench.sweep.slots import Slots, plan_slots
from tdbench.sweep.slurm import MOST_JOBS, slurm_options
from tdbench.sweep.slurm_executor import SlurmExecutor

EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Execution:
    """How the trials of a sweep are run.

    Attributes:
        jobs: Trials at once on a CPU, which share its threads; None: as many as cores and memory bear. With Slurm, jobs
            that are queued or run at once; None: 32.
        gpus: GPUs to spread trials over, by the names that CUDA_VISIBLE_DEVICES takes: `0,1`, or a list; None: all.
        per_gpu: Trials at once on each GPU.
        trial_timeout: Seconds after which a trial is given up.
        retry_failed: Run again what failed or diverged.
        fresh: Run everything again.
        executor: `local`, `ray` or `slurm`.
        ray_address: The cluster; None: a Ray of this machine's own.
        log: Loggers that take down trials and verdicts too, such as `wandb,tensorboard`, or several such texts.
        slurm: What each Slurm job asks for, `partition=gpu,time=2:00:00,memory=16G,gpus=1,cpus=4`, or a table of that.
        audit: Hold the regularizer of each value against its configuration first, into `audit.csv`.

    Raises:
        ConfigError: A choice does not exist, or would be ignored.
    """

    jobs: int | None = None
    gpus: str | Sequence[str] | None = None
    per_gpu: int = 1
    trial_timeout: float | None = None
    retry_failed: bool = False
    fresh: bool = False
    executor: str = "local"
    ray_address: str | None = None
    log: str | Sequence[str] | None = None
    slurm: str | Mapping[str, Any] | None = None
    audit: bool = False

    def __post_init__(self) -> None:
        for flag, number in {"jobs": self.jobs, "per-gpu": self.per_gpu, "trial-timeout": self.trial_timeout}.items():
            if number is not None and not number > 0:
                raise ConfigError(f"--{flag} must be more than 0, got {number}")
        if self.gpus is not None:
            named = self.gpus.split(",") if isinstance(self.gpus, str) else self.gpus
            object.__setattr__(self, "gpus", tuple(named))
        if self.executor not in EXECUTORS:
            raise ConfigError(unknown("--executor", self.executor, EXECUTORS))
        if self.ray_address is not None and self.executor != "ray":
            raise ConfigError(f"--ray-address goes with --executor ray, got {self.ray_address}")
        if self.slurm is not None and self.executor != "slurm":
            raise ConfigError(f"--slurm goes with --executor slurm, got {self.slurm}")
        if self.executor == "slurm" and (self.gpus is not None or self.per_gpu != 1):
            raise ConfigError("--gpus and --per-gpu are about this machine; with Slurm it is --slurm gpus=N")
        slurm_options(self.slurm)
        if self.ray_address is not None and self.gpus is not None:
            names = ",".join(self.gpus)
            raise ConfigError(f"--gpus must be left out with --ray-address, since it names this machine's, got {names}")
        object.__setattr__(self, "log", loggers_named(self.log))

    def slots(self, hardware: HardwareConfig) -> Slots:
        """Return the places for trials with this hardware.

        Raises:
            ConfigError, DeviceError: See `plan_slots`.
        """
        if self.executor == "slurm":  # each job has a machine's share of its own, of which nothing is known here
            threads = hardware.threads or slurm_options(self.slurm).cpus
            return Slots([{} for _ in range(self.jobs or MOST_JOBS)], threads, 1.0)
        return plan_slots(hardware, self.jobs, self.gpus, self.per_gpu)

    def executor_in(self, slots: Slots) -> Executor:
        """Return where the trials run.

        Raises:
            ConfigError: There is no such place, or what it needs is not installed.
        """
        if self.executor == "ray":
            return RayExecutor(slots, self.ray_address, self.trial_timeout)
        if self.executor == "slurm":
            return SlurmExecutor(slurm_options(self.slurm), len(slots.environments), self.trial_timeout)
        return LocalExecutor(slots.environments, self.trial_timeout)
