"""Weights & Biases: a run for each trial, in the group of its sweep, and one more of the group for the verdicts.

Project, entity, mode and folder are those of `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE` and `WANDB_DIR`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from tdbench.store.loggers.base import PROJECT, LoggedRun, LoggedSweep, Logger, figures_of, point_name
from tdbench.store.rows import EpochRow, RunResult, SummaryRow


class Wandb(Logger):
    """Logs each epoch's row by its epoch; what `result.json` holds is the run's summary."""

    def start_run(self, run: LoggedRun) -> None:
        kind = "run" if run.group is None else "trial"
        self._run = started(run.id, run.folder, run.settings, name=run.name, group=run.group, job_type=kind)

    def log_epoch(self, row: EpochRow) -> None:
        self._run.log(figures_of(row), step=row.epoch)

    def end_run(self, result: RunResult) -> None:
        self._run.summary.update({name: value for name, value in result.to_tree().items() if value is not None})
        self._run.finish(exit_code=0 if result.is_done else 1)

    def start_sweep(self, sweep: LoggedSweep) -> None:
        """Do nothing: the group comes with its first run."""

    def end_sweep(self, sweep: LoggedSweep, summary: Sequence[SummaryRow]) -> None:
        if not summary:
            return
        run = started(sweep.id, sweep.folder, {}, name="verdicts", group=sweep.id, job_type="verdicts")
        columns = SummaryRow.columns(sweep.keys)
        table = wandb.Table(columns=[*columns], allow_mixed_types=True)
        for row in summary:
            cells = row.cells()
            table.add_data(*(cells[name] for name in columns))
            run.summary[f"verdict of {point_name(row)}"] = row.verdict
        run.log({"summary": table})
        run.finish()


def started(run_id: str, folder: Path, settings: Mapping[str, Any], **about: Any) -> Any:
    """Return a new run, or one that goes on.

    It prints nothing, asks for no key on the terminal, and leaves what the process prints alone.
    """
    quiet = wandb.Settings(silent=True, console="off")
    wandb.setup(quiet)  # without which it would ask
    return wandb.init(
        id=run_id,
        resume="allow",
        config=dict(settings),
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        dir=os.environ.get("WANDB_DIR", str(folder)),
        settings=quiet,
        **about,
    )
