"""MLflow: a run for each trial, under a parent run for its sweep, which has the verdicts.

They go to the experiment of `MLFLOW_EXPERIMENT_NAME` at `MLFLOW_TRACKING_URI`, where those are set. MLflow's client is
used, and not its `mlflow.log_...`, whose current run may be one of the user's.
"""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from tdbench.store.folders import CANDIDATES, SUMMARY_TABLE, SUMMARY_TEXT
from tdbench.store.loggers.base import PROJECT, LoggedRun, LoggedSweep, Logger, figures_of, point_name
from tdbench.store.rows import EpochRow, RunResult, SummaryRow, TrialState, columns

ID, PARENT = "tdbench.id", "mlflow.parentRunId"
LARGEST_BATCH = 100  # of parameters or tags
LONGEST_VALUE = 500  # of a parameter, in every store
STATUS = {TrialState.DONE: "FINISHED", TrialState.WAITING: "KILLED", TrialState.KILLED: "KILLED"}  # else FAILED


class MLflow(Logger):
    """Logs each epoch's row by its epoch; what `result.json` has beside becomes metrics and tags."""

    def __init__(self) -> None:
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of the tables that it makes
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if found is None else found.experiment_id

    def start_run(self, run: LoggedRun) -> None:
        parent = None if run.group is None else self._find(run.group)
        self._run = self._started(run.id, run.name, run.settings, {} if parent is None else {PARENT: parent})
        before = self._client.get_metric_history(self._run, "epoch")
        self._num_logged = max((one.step for one in before), default=0)

    def log_epoch(self, row: EpochRow) -> None:
        if row.epoch > self._num_logged:  # else a killed process logged it beyond its last checkpoint
            self._log_figures(figures_of(row), row.epoch)

    def end_run(self, result: RunResult) -> None:
        known = {"seed", "epochs", *columns(EpochRow)}
        self._log_figures(
            {name: one for name, one in figures_of(result).items() if name not in known}, result.epochs or 0
        )
        words = {name: value for name, value in result.to_tree().items() if isinstance(value, str)}
        self._log_tags({f"tdbench.{name}": value for name, value in words.items()})
        self._client.set_terminated(self._run, STATUS.get(result.status, "FAILED"))

    def start_sweep(self, sweep: LoggedSweep) -> None:
        self._run = self._started(sweep.id, sweep.id, {}, {})

    def end_sweep(self, sweep: LoggedSweep, summary: Sequence[SummaryRow]) -> None:
        self._log_tags({f"verdict {point_name(row)}": row.verdict for row in summary})
        for row in summary:
            self._log_figures({f"{name} {point_name(row)}": figure for name, figure in figures_of(row).items()}, 0)
        for name in (SUMMARY_TABLE, SUMMARY_TEXT, CANDIDATES):
            if (sweep.folder / name).exists():
                self._client.log_artifact(self._run, str(sweep.folder / name))
        self._client.set_terminated(self._run)

    def _started(self, own_id: str, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Return MLflow's id of a new run, or of one that goes on."""
        if (found := self._find(own_id)) is not None:
            self._client.update_run(found, status="RUNNING")
            return found
        run: str = self._client.create_run(self._experiment, run_name=name, tags={ID: own_id, **tags}).info.run_id
        params = [Param(accepted(key), str(value)[:LONGEST_VALUE]) for key, value in settings.items()]
        for first in range(0, len(params), LARGEST_BATCH):
            self._client.log_batch(run, params=params[first : first + LARGEST_BATCH])
        return run

    def _find(self, own_id: str) -> str | None:
        found = self._client.search_runs([self._experiment], f"tags.`{ID}` = '{own_id}'", max_results=1)
        return found[0].info.run_id if found else None

    def _log_figures(self, figures: Mapping[str, float], step: int) -> None:
        now_ms = round(1000 * time.time())
        metrics = [Metric(accepted(name), float(figure), now_ms, step) for name, figure in figures.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def _log_tags(self, tags: Mapping[str, str]) -> None:
        every = [RunTag(accepted(key), value) for key, value in tags.items()]
        for first in range(0, len(every), LARGEST_BATCH):
            self._client.log_batch(self._run, tags=every[first : first + LARGEST_BATCH])


def accepted(name: str) -> str:
    """Return a name in the characters that MLflow takes everywhere."""
    return re.sub(r"[^\w\-. /]", "_", name)
