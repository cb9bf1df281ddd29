"""A Chrome trace of ten training steps, by torch.profiler."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from tdbench.errors import ConfigError, FolderError
from tdbench.store.files import temporary
from tdbench.store.folders import TRACE
from tdbench.training.clock import WARMUP_STEPS

NUM_STEPS = 10
_PROFILER_WARMUP = 1  # the profiler's own first step is slow
STEPS_NEEDED = WARMUP_STEPS + _PROFILER_WARMUP + NUM_STEPS


class StepTrace:
    """Skips the warm-up steps, records ten steps, and writes them to a file.

    Args:
        folder: Where `trace.json` goes; created if missing.
        device: Where the steps run.
        num_steps: Number of steps that will be done.

    Raises:
        ConfigError: There are fewer than STEPS_NEEDED steps.
        FolderError: The folder cannot be created.
    """

    def __init__(self, folder: Path, device: torch.device, num_steps: int) -> None:
        if num_steps < STEPS_NEEDED:
            raise ConfigError(
                f"--torch-profile needs a run of at least {STEPS_NEEDED} steps, {NUM_STEPS} of which it records; this "
                f"one has {num_steps} to do"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(f"--torch-profile {folder} must be a folder that can be written: {error}") from error
        self._path, self._is_written = folder / TRACE, False
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        plan = schedule(wait=WARMUP_STEPS, warmup=_PROFILER_WARMUP, active=NUM_STEPS, repeat=1)
        self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write)

    def __enter__(self) -> "StepTrace":
        self._profile.start()
        return self

    def step(self) -> None:
        """Mark the end of a step.

        Raises:
            FolderError: The trace is complete and cannot be written.
        """
        if not self._is_written:
            self._profile.step()

    def __exit__(self, *error: object) -> None:
        self._profile.stop()

    def _write(self, recorded: profile) -> None:
        self._is_written = True
        unfinished = temporary(self._path)
        try:
            recorded.export_chrome_trace(str(unfinished))
            unfinished.replace(self._path)
        except (OSError, RuntimeError) as error:
            raise FolderError(
                f"cannot write {self._path}: {error}; the same command without --torch-profile goes on"
            ) from error
