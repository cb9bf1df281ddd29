"""TensorBoard: event files in `tensorboard/` of the folder, written by its own package, which needs no torch."""

import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.hparams.api_pb2 import DataType, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG, PLUGIN_DATA_VERSION, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.metadata import PLUGIN_NAME as HPARAMS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo
from tensorboard.plugins.text.metadata import PLUGIN_NAME as TEXT
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tdbench.store.loggers.base import LoggedRun, LoggedSweep, Logger, figures_of
from tdbench.store.rows import EpochRow, RunResult, SummaryRow

FOLDER = "tensorboard"
FIGURES = ("test_error_pct", "train_error_pct", "dropped_pct")  # beside the hyperparameters


class TensorBoard(Logger):
    """Writes each epoch's row as scalars, the settings as hyperparameters, and the verdicts as a table of text."""

    def start_run(self, run: LoggedRun) -> None:
        if run.step == 0:  # a run that was started over
            shutil.rmtree(run.folder / FOLDER, ignore_errors=True)
        self._writer, self._has_epochs = EventFileWriter(str(run.folder / FOLDER)), False
        for value in hyperparameters(run.settings):
            self._write(Summary(value=[value]))

    def log_epoch(self, row: EpochRow) -> None:
        if not self._has_epochs:  # what a killed process wrote beyond its last checkpoint is read no more
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=row.epoch, session_log=start))
            self._has_epochs = True
        figures = {name: figure for name, figure in figures_of(row).items() if name != "epoch"}
        values = [Summary.Value(tag=name, simple_value=figure) for name, figure in figures.items()]
        self._write(Summary(value=values), row.epoch)
        self._writer.flush()

    def end_run(self, result: RunResult) -> None:
        self._writer.close()

    def start_sweep(self, sweep: LoggedSweep) -> None:
        """Do nothing: the trials write folders of their own."""

    def end_sweep(self, sweep: LoggedSweep, summary: Sequence[SummaryRow]) -> None:
        if not summary:
            return
        shutil.rmtree(sweep.folder / FOLDER, ignore_errors=True)  # of an earlier look
        self._writer = EventFileWriter(str(sweep.folder / FOLDER))
        self._write(Summary(value=[text("summary", table(sweep.keys, summary))]))
        self._writer.close()

    def _write(self, summary: Summary, step: int = 0) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


def hyperparameters(settings: Mapping[str, Any]) -> list[Summary.Value]:
    """Return what TensorBoard's hparams plugin reads: the names of the settings and figures, and the run's values."""
    start, infos = SessionStartInfo(), []
    for key, value in settings.items():
        kind = "BOOL" if isinstance(value, bool) else "FLOAT64" if isinstance(value, (int, float)) else "STRING"
        infos.append(HParamInfo(name=key, type=DataType.Value(f"DATA_TYPE_{kind}")))
        one = start.hparams[key]
        if kind == "BOOL":
            one.bool_value = value
        elif kind == "FLOAT64":
            one.number_value = value
        else:
            one.string_value = "null" if value is None else str(value)
    metrics = [MetricInfo(name=MetricName(tag=name)) for name in FIGURES]
    experiment = Experiment(hparam_infos=infos, metric_infos=metrics)
    contents = {
        EXPERIMENT_TAG: HParamsPluginData(experiment=experiment, version=PLUGIN_DATA_VERSION),
        SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start, version=PLUGIN_DATA_VERSION),
    }
    return [
        Summary.Value(tag=tag, metadata=of_plugin(HPARAMS, content.SerializeToString()))
        for tag, content in contents.items()
    ]


def text(tag: str, markdown: str) -> Summary.Value:
    """Return a text for TensorBoard's text plugin."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape)
    return Summary.Value(tag=f"{tag}/text_summary", metadata=of_plugin(TEXT), tensor=tensor)


def of_plugin(name: str, content: bytes = b"") -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=name, content=content))


def table(keys: Sequence[str], summary: Sequence[SummaryRow]) -> str:
    """Return the summary as a table in Markdown."""
    columns = SummaryRow.columns(keys)
    rows = [["" if (cell := row.cells()[name]) is None else str(cell) for name in columns] for row in summary]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
