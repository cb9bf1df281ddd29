"""The learning rate of each step: a linear warm-up, then a shape of ours or of torch's."""

import math
from functools import cache
from typing import Any

import torch

from tdbench.config import ScheduleConfig, TrainingConfig
from tdbench.errors import ConfigError, line_of
from tdbench.training.optimizer import bare


def num_steps_of(config: TrainingConfig, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of a run."""
    planned = config.epochs * steps_per_epoch
    return min(planned, config.max_steps or planned)


class Schedule:
    """The learning rate over a run: a pure function of the step, so that a resume needs nothing of it.

    A warm-up longer than half the run is cut to half of it. A schedule of torch's goes on from there, with each step or
    each epoch's worth of steps, and sets the rate alone.

    Args:
        config: Its shape.
        num_steps: Of the run.
        steps_per_epoch: Of an epoch.
    """

    def __init__(self, config: ScheduleConfig, num_steps: int, steps_per_epoch: int) -> None:
        self._config, self._num_steps, self._steps_per_epoch = config, num_steps, steps_per_epoch
        self._warmup = min(round(config.warmup_epochs * steps_per_epoch), num_steps // 2)
        self._of_torch = cache(self._rates_of_torch)  # by the peak

    def lr_at(self, step: int, peak: float) -> float:
        """Return the learning rate of step `step`, from 0.

        Raises:
            ConfigError: torch's schedule refuses its knobs.
        """
        config = self._config
        if step < self._warmup:
            return peak * (step + 1) / self._warmup
        if not config.is_ours:
            return self._of_torch(peak)[(step - self._warmup) // self._steps_per_stage]
        done = (step - self._warmup) / max(1, self._num_steps - self._warmup)
        if config.name == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done))
        if config.name == "milestones":
            passed = sum(step >= milestone * self._num_steps - 1e-9 for milestone in config.milestones)
            return peak * config.factor**passed
        return peak

    @property
    def _steps_per_stage(self) -> int:
        return 1 if self._config.per == "step" else self._steps_per_epoch

    def _rates_of_torch(self, peak: float) -> list[float]:
        """Return the rates of torch's schedule after the warm-up, one for each time that it goes on."""
        kind, given = getattr(torch.optim.lr_scheduler, self._config.name), self._config.knobs()
        if "cycle_momentum" in kind.__init__.__code__.co_varnames:
            given["cycle_momentum"] = False
        sgd: Any = bare(torch.optim.SGD)
        optimizer = sgd([torch.nn.Parameter(torch.zeros(()))], lr=peak)
        num_stages = -(-(self._num_steps - self._warmup) // self._steps_per_stage)
        try:
            schedule, rates = kind(optimizer, **given), [optimizer.param_groups[0]["lr"]]
            optimizer.step()  # which torch wants to see before the schedule's own
            for _ in range(num_stages - 1):
                schedule.step()
                rates.append(optimizer.param_groups[0]["lr"])
        except (ArithmeticError, TypeError, ValueError) as error:
            reason = line_of(error, with_type=False)
            raise ConfigError(f"schedule.name {self._config.name} refuses its knobs: {reason}") from error
        if bad := [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]:
            raise ConfigError(
                f"schedule.name {self._config.name} must give learning rates of at least 0, got {bad[0]:g} after "
                f"{rates.index(bad[0]) * self._steps_per_stage + self._warmup} steps"
            )
        return [float(rate) for rate in rates]
