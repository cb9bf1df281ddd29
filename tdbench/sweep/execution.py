"""How the trials of a sweep are run: where, how many at once, and what is run again."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdbench.errors import ConfigError, unknown
from tdbench.store.loggers import loggers_named
from tdbench.sweep.executors import Executor, LocalExecutor
from tdbench.sweep.ray_executor import RayExecutor
from tdbench.sweep.slots import Slots

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Execution:
    """How the trials of a sweep are run.

    Attributes:
        jobs: Trials at once on a CPU, which share its threads; None: as many as cores and memory bear.
        gpus: GPUs to spread trials over, by the names that CUDA_VISIBLE_DEVICES takes: `0,1`, or a list; None: all.
        per_gpu: Trials at once on each GPU.
        trial_timeout: Seconds after which a trial is given up.
        retry_failed: Run again what failed or diverged.
        fresh: Run everything again.
        executor: `local` or `ray`.
        ray_address: The cluster; None: a Ray of this machine's own.
        log: Loggers that take down trials and verdicts too, such as `wandb,tensorboard`, or several such texts.

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
        if self.ray_address is not None and self.gpus is not None:
            names = ",".join(self.gpus)
            raise ConfigError(f"--gpus must be left out with --ray-address, since it names this machine's, got {names}")
        object.__setattr__(self, "log", loggers_named(self.log))

    def executor_in(self, slots: Slots) -> Executor:
        """Return where the trials run.

        Raises:
            ConfigError: There is no such place, or what it needs is not installed.
        """
        if self.executor == "ray":
            return RayExecutor(slots, self.ray_address, self.trial_timeout)
        return LocalExecutor(slots.environments, self.trial_timeout)
