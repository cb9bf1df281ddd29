"""Loggers by name, and at arm's length: one that is missing is refused at once, one that fails costs a note."""

import importlib
import os
import re
import subprocess
import sys
import threading
import tomllib
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

import tdbench
from tdbench.errors import ConfigError, Note
from tdbench.store import loggers
from tdbench.store.loggers import LOGGERS, Package, loggers_named
from tdbench.store.loggers.base import Logger, kept_id
from tdbench.store.loggers.recording import SweepLog
from tdbench.store.rows import TrialState
from tests.store.loggers.records import Offline

HEARD = []


class Fake(Logger):
    """Keeps what it hears."""

    def start_run(self, run):
        HEARD.append(("start", run.id, run.step))

    def log_epoch(self, row):
        HEARD.append(("epoch", row.epoch))

    def end_run(self, result):
        HEARD.append(("end", result.status))

    def start_sweep(self, sweep):
        HEARD.append(("start", sweep.id))

    def end_sweep(self, sweep, summary):
        HEARD.append(("end", len(summary)))


class Failing(Logger):
    """Gives up at the first epoch, as some packages do."""

    def start_run(self, run):
        pass

    def log_epoch(self, row):
        raise SystemExit("no quota")

    end_run = start_sweep = end_sweep = start_run


class Wordy(Failing):
    def start_run(self, run):
        raise ValueError("1 error for Settings\n  mode must be online" + 100 * "\n  or another")

    def start_sweep(self, sweep):
        self.start_run(sweep)


class Hanging(Failing):
    def log_epoch(self, row):
        threading.Event().wait()


@pytest.fixture
def fakes(monkeypatch):
    module = SimpleNamespace(Fake=Fake, Failing=Failing, Wordy=Wordy, Hanging=Hanging)
    monkeypatch.setitem(sys.modules, "tdbench.store.loggers.fakes", module)
    for name in ("Fake", "Failing", "Wordy", "Hanging", "Missing"):
        monkeypatch.setitem(LOGGERS, name.lower(), Package(f"fakes:{name}", "1", ("pip",)))
    HEARD.clear()


def test_names_are_taken_once_from_one_text_or_several():
    assert loggers_named(None) == ()
    assert loggers_named("tensorboard") == ("tensorboard",)
    assert loggers_named(["wandb, tensorboard", "wandb"]) == ("wandb", "tensorboard")


@pytest.mark.parametrize("log", ["wandp", "", "wandb,,mlflow"])
def test_an_unknown_name_is_refused_with_those_there_are(log):
    with pytest.raises(ConfigError, match=r"unknown --log .*known: tensorboard, wandb, mlflow"):
        loggers_named(log)


@pytest.mark.parametrize("log", [5, True, ["wandb", None], {"wandb"}])
def test_what_is_no_name_is_refused(log):
    with pytest.raises(ConfigError, match="log must be names of loggers, such as 'wandb,tensorboard', got"):
        loggers_named(log)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, '--log wandb needs wandb, which is not installed: pip install -U "tdbench[wandb]"'),
        ("0.24.1", '--log wandb needs wandb 0.24.2 or newer, got 0.24.1: pip install -U "tdbench[wandb]"'),
        ("0.9.30.dev1", "got 0.9.30.dev1"),
    ],
)
def test_a_package_that_is_missing_or_too_old_is_refused(monkeypatch, found, words):
    def version(name):
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(loggers, "version", version)
    with pytest.raises(ConfigError, match=re.escape(words)):
        loggers_named("wandb")


def test_the_releases_that_will_do_are_those_of_the_extras():
    project = tomllib.loads((Path(tdbench.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for name, package in LOGGERS.items():
        assert project["optional-dependencies"][name] == [f"{package.distributions[0]}>={package.at_least}"]


def test_a_logger_hears_of_a_run_in_turn(fakes, record, tmp_path):
    assert record(tmp_path, "fake", epochs=(3, 4), status=TrialState.WAITING) == []
    run_id = kept_id(tmp_path, "d1")
    assert [("start", run_id, 20), ("epoch", 3), ("epoch", 4), ("end", "waiting")] == HEARD


def test_one_that_fails_costs_a_note_and_the_others_nothing(fakes, record, record_sweep, tmp_path):
    notes = record(tmp_path, "failing", "fake", "missing")
    assert HEARD[-1] == ("end", "done")
    assert sorted(note.partition(":")[0] for note in notes) == [
        "--log failing failed and is left out",
        "--log missing failed and is left out",
    ]
    assert any("SystemExit: no quota" in note for note in notes)
    _, notes = record_sweep(tmp_path / "sweep", "missing", "fake")
    assert [note.partition(":")[0] for note in notes] == ["--log missing failed and is left out"] * 2
    assert HEARD[-1] == ("end", 2)


def test_the_reason_is_told_in_a_line_even_where_it_stands_behind_the_first(fakes, record, tmp_path):
    (note,) = record(tmp_path, "wordy")
    assert note.startswith(
        "--log wordy failed and is left out: ValueError: 1 error for Settings mode must be online or"
    )
    assert len(note) < 400


def test_trials_do_not_wait_for_one_that_failed_where_their_sweep_began(fakes, tmp_path):
    assert SweepLog(["wordy", "fake"], tmp_path, ["block_size"], note=HEARD.append).names == ("fake",)


@pytest.mark.parametrize("error", [None, RuntimeError("the disk is full")])
def test_a_sweep_ends_there_even_where_it_comes_to_no_verdicts(fakes, tmp_path, error):
    with pytest.raises(RuntimeError) if error else nullcontext(), SweepLog(["fake"], tmp_path, ["block_size"]) as log:
        if error:
            raise error
    assert [("start", log.group), ("end", 0)] == HEARD


def test_one_that_does_not_answer_is_left_behind(fakes, record, tmp_path, monkeypatch):
    monkeypatch.setattr("tdbench.store.loggers.guarded.PATIENCE_S", 0.1)
    assert record(tmp_path, "hanging") == ["--log hanging failed and is left out: no answer for 0.1 s"]


def test_an_id_is_kept_where_it_can_be_and_new_where_the_run_starts_over(tmp_path):
    first = kept_id(tmp_path, "a b/c#d")
    assert re.fullmatch("a-b-c-d-[0-9a-f]{8}", first)
    assert kept_id(tmp_path, "other") == first
    assert kept_id(tmp_path, "other", fresh=True) != first
    assert kept_id(tmp_path / "missing", "d1").startswith("d1-")


def test_a_run_trains_to_its_end_whatever_becomes_of_its_loggers(fakes, tmp_path):
    tiny = {"train_fraction": 0.1, "max_steps": 4, "batch_size": 32, "threads": 1, "out": tmp_path / "run"}
    with pytest.warns(Note, match="--log failing failed and is left out: SystemExit: no quota"):
        assert tdbench.train(log="failing,fake", **tiny).is_done
    assert [what for what, *_ in HEARD] == ["start", "epoch", "end"]
    HEARD.clear()
    assert tdbench.train(log="fake", **tiny).is_done  # over already
    assert HEARD == []


def run_with_loggers(place, *asked):
    """Run a command in a process that comes to know no torch; return MLflow's address."""
    asked = [*asked, "--jobs", "1", "--threads", "1", "--train-fraction", "0.1"]
    code = f"import sys; from tdbench.cli import main; assert main({asked}) == 0; assert 'torch' not in sys.modules"
    surroundings = {**os.environ, "WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, env=surroundings)
    assert (done.returncode, "failed" in done.stderr) == (0, False), done.stderr
    return surroundings["MLFLOW_TRACKING_URI"]


@pytest.mark.slow
def test_a_sweep_logs_to_all_of_them_at_once_and_its_driver_knows_no_torch(tmp_path):
    for name in LOGGERS:
        pytest.importorskip(name, reason=f"{name} is not installed")
    asked = ("ablate", "--param", "block_size=3", "--seeds", "1", "--epochs", "2", "--out", "sweep")
    address = run_with_loggers(tmp_path, *asked, "--log", "wandb,mlflow", "--log", "tensorboard")
    sweep = tmp_path / "sweep"
    group = kept_id(sweep, "")
    trials = sorted((sweep / "trials").iterdir())
    assert [(Offline(trial).run.run_group, len(Offline(trial).history)) for trial in trials] == [(group, 2)] * 2
    assert Offline(sweep).summary["verdict of block_size=3"] == "too few seeds"
    client = importlib.import_module("mlflow").MlflowClient(address)
    runs = client.search_runs([client.get_experiment_by_name("tdbench").experiment_id])
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {None, runs[-1].info.run_id}
    assert all((folder / "tensorboard").is_dir() for folder in (sweep, *trials))


@pytest.mark.slow
def test_a_search_is_one_group_with_its_confirmation_whose_verdicts_it_has(tmp_path):
    for name in ("wandb", "optuna"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    asked = ("--param", "block_size=1,3", "--trials", "1", "--search-seeds", "1", "--confirm-seeds", "3..3")
    asked += ("--max-steps", "2", "--batch-size", "32", "--log", "wandb", "--out", "search")
    run_with_loggers(tmp_path, "tune", *asked)
    search, confirm = tmp_path / "search", tmp_path / "search" / "confirm"
    trials = [*(search / "trials").iterdir(), *(confirm / "trials").iterdir()]
    assert {Offline(folder).run.run_group for folder in (confirm, *trials)} == {kept_id(search, "")}
    assert Offline(confirm).summary["verdict of arm=none"] == "baseline"
    assert not (search / "wandb").exists()
