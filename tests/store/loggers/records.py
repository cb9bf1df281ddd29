"""Rows for loggers, and a reader of what W&B keeps offline."""

import json
import struct
from pathlib import Path

from tdbench.store.rows import Decision, EpochRow, RunResult, SummaryRow, columns

SETTINGS = {"optimizer.lr": 0.1, "model.name": "resnet8", "optimizer.nesterov": True, "regularizer.sites": None}


def epoch_row(epoch):
    return EpochRow(epoch, 0.1, 1.0 / epoch, 50.0, 1.5, 40.0 - epoch, 2.5, None, 1.0, 100.0)


def result_of(status, epochs):
    return RunResult(status, "d1", 3, epochs=epochs, test_error_pct=40.0 - epochs, dropped_pct=2.5, brier=0.5)


def summary_row(value, verdict):
    empty = dict.fromkeys(columns(SummaryRow))
    figures = {"values": {"block_size": value}, "n": 3, "verdict": verdict, "decision": Decision.HELPS}
    return SummaryRow(**{**empty, **figures, "delta_vs_baseline": -0.5, "metric": "test_error_pct"})


SUMMARY = [summary_row(3, "helps"), summary_row(5, "no detectable difference")]


class Offline:
    """What a W&B file of an offline run holds: LevelDB's log format around W&B's records."""

    def __init__(self, folder: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        self.history, self.summary, self.exit_code = [], {}, None
        for content in self._records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
            elif kind == "history":
                self.history.append(self._items(record.history.item))
            elif kind == "summary":
                self.summary |= self._items(record.summary.update)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @staticmethod
    def _records(data: bytes):
        place, begun = 7, b""  # after W&B's own header
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:  # no record begins at the end of a block
                place += 32768 - place % 32768
                continue
            length, part = struct.unpack("<HB", data[place + 4 : place + 7])
            begun += data[place + 7 : place + 7 + length]
            place += 7 + length
            if part in (1, 4):  # a whole record, or its last part
                yield begun
                begun = b""

    @staticmethod
    def _items(items):
        return {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in items}
