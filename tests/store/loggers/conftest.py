"""Runs that loggers hear of without any training."""

import pytest

from tdbench.store.loggers.recording import RunLog, SweepLog
from tdbench.store.progress import Observer
from tdbench.store.rows import TrialState
from tests.store.loggers.records import SETTINGS, SUMMARY, epoch_row, result_of


class Noting(Observer):
    """Keeps what is noted."""

    def __init__(self):
        self.notes = []

    def noted(self, text):
        self.notes.append(text)


@pytest.fixture
def record():
    """Return what lets loggers hear of a run of some epochs, and returns what was noted."""

    def recorded(folder, *names, epochs=(1, 2), status=TrialState.DONE, group=None):
        noting = Noting()
        folder.mkdir(parents=True, exist_ok=True)
        log = RunLog(names, noting, folder=folder, name="a run", digest="d1", settings=SETTINGS, group=group)
        log.started({}, 10 * (epochs[0] - 1), 20)
        for epoch in epochs:
            log.epoch_ended(epoch_row(epoch))
        if status is TrialState.KILLED:  # by a signal, of which nobody hears
            log._guards.settle()
        else:
            log.ended(result_of(status, epochs[-1]))
        return noting.notes

    return recorded


@pytest.fixture
def record_sweep(record):
    """Return what lets loggers hear of a sweep of one trial, and returns its group and what was noted."""

    def recorded(folder, *names):
        notes = []
        folder.mkdir(parents=True, exist_ok=True)
        log = SweepLog(names, folder, ["block_size"], note=notes.append)
        notes += record(folder / "trial", *names, group=log.group)
        log.end(SUMMARY)
        return log.group, notes

    return recorded
