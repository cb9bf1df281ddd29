"""Weights & Biases, offline: each epoch is a step, the result the summary, and a sweep a group with its verdicts."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest

from tdbench.store.loggers.recording import SweepLog
from tdbench.store.rows import TrialState
from tests.store.loggers.records import SETTINGS, Offline

pytest.importorskip("wandb", reason="wandb is not installed")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def test_each_epoch_is_a_step_and_the_result_the_summary(record, tmp_path):
    assert record(tmp_path, "wandb") == []
    kept = Offline(tmp_path)
    assert [(row["_step"], row["epoch"], row["test_error_pct"]) for row in kept.history] == [(1, 1, 39), (2, 2, 38)]
    assert "train_img_per_s" not in kept.history[0]  # which was not measured
    assert kept.run.project == "tdbench"
    assert (kept.run.display_name, kept.run.run_group, kept.run.job_type) == ("a run", "", "run")
    config = {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in kept.run.config.update}
    assert {key: config[key] for key in SETTINGS} == SETTINGS
    assert (kept.summary["status"], kept.summary["brier"], kept.exit_code) == ("done", 0.5, 0)


def test_a_run_that_was_stopped_goes_on_as_the_same_run(record, tmp_path):
    ids = []
    for epochs, status, code in (((1, 2), TrialState.WAITING, 1), ((3, 4), TrialState.DONE, 0)):
        assert record(tmp_path, "wandb", epochs=epochs, status=status) == []
        kept = Offline(tmp_path)
        assert [row["_step"] for row in kept.history] == [*epochs]
        assert kept.exit_code == code
        ids.append(kept.run.run_id)
        shutil.rmtree(tmp_path / "wandb")
    assert ids[0] == ids[1] == json.loads((tmp_path / "logged.json").read_text())["id"]
    assert ids[0].startswith("d1-")


def test_a_sweep_is_a_group_and_its_verdicts_a_summary(record_sweep, tmp_path):
    group, notes = record_sweep(tmp_path / "my sweep", "wandb")
    assert notes == []
    trial, verdicts = Offline(tmp_path / "my sweep" / "trial"), Offline(tmp_path / "my sweep")
    assert group.startswith("my-sweep-")
    assert (trial.run.run_group, trial.run.job_type) == (group, "trial")
    assert (verdicts.run.run_group, verdicts.run.job_type) == (group, "verdicts")
    assert verdicts.summary["verdict of block_size=3"] == "helps"
    assert verdicts.summary["verdict of block_size=5"] == "no detectable difference"
    (table,) = tmp_path.glob("my sweep/wandb/offline-run-*/files/media/table/*.json")
    kept = json.loads(table.read_text())
    row = dict(zip(kept["columns"], kept["data"][0], strict=True))
    assert (row["block_size"], row["n"], row["delta_vs_baseline"], row["p_value"]) == (3, 3, -0.5, None)


def test_a_sweep_without_verdicts_makes_no_run_of_its_own(tmp_path):
    notes = []
    with SweepLog(["wandb"], tmp_path, ["block_size"], note=notes.append):
        """As of a search, whose confirmation has them."""
    assert (notes, [path.name for path in tmp_path.iterdir()]) == ([], ["logged.json"])


@pytest.mark.skipif(not hasattr(os, "forkpty"), reason="no terminal can be had here")
def test_without_a_key_it_asks_for_none_on_the_terminal(tmp_path):
    code = "from tdbench.store.loggers.wandb import *; started('abc', Path('.'), {}, name='x')"
    taken = {"WANDB_MODE", "WANDB_API_KEY", "NETRC"}
    surroundings = {name: value for name, value in os.environ.items() if name not in taken}
    surroundings |= {"HOME": str(tmp_path), "TERM": "xterm"}
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=surroundings
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # by which a terminal says that the other side has gone
        while more := os.read(ours, 4096):
            said += more
            assert b"Enter your choice" not in said
    assert process.wait() == 1
    assert b"UsageError" in said
    assert b"wandb login" in said
