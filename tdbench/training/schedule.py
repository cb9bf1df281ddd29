"""The learning rate of each step."""

import math

from tdbench.config import ScheduleConfig


def lr_at(step: int, num_steps: int, steps_per_epoch: int, peak: float, schedule: ScheduleConfig) -> float:
    """Return the learning rate of step `step` (from 0) of `num_steps`: a linear warm-up, then the schedule's shape.

    A warm-up longer than half the run is cut to half of it.
    """
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), num_steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    if schedule.name == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    if schedule.name == "milestones":
        passed = sum(step >= milestone * num_steps - 1e-9 for milestone in schedule.milestones)
        return peak * schedule.factor**passed
    return peak
