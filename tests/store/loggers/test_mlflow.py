"""MLflow, in a file of SQLite: each epoch is a step, a sweep the parent of its trials, with the verdicts."""

from contextlib import chdir

import pytest

from tdbench.store.loggers.recording import SweepLog
from tdbench.store.rows import TrialState
from tests.store.loggers.records import SETTINGS, SUMMARY

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return the address of a store whose tables, which take seconds, are made once."""
    place = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{place / 'mlflow.db'}"
    with chdir(place):  # in which older releases make a folder for artifacts, whether or not it is used
        client = mlflow.MlflowClient(address)
        client.create_experiment("tdbench", str(place / "artifacts"))
    return address


@pytest.fixture
def runs(store, monkeypatch, tmp_path):
    """Return what returns the runs there that this test has made, the oldest first."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    mlflow.set_tracking_uri(store)
    client = mlflow.MlflowClient()

    def every():
        experiment = client.get_experiment_by_name("tdbench").experiment_id
        return client.search_runs([experiment], order_by=["attributes.start_time ASC"])

    earlier = {run.info.run_id for run in every()}
    yield lambda: [run for run in every() if run.info.run_id not in earlier]
    mlflow.set_tracking_uri(before)


def history(run, metric):
    return [(one.step, one.value) for one in mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)]


def test_each_epoch_is_a_step_and_the_settings_are_parameters(record, runs, tmp_path):
    assert record(tmp_path, "mlflow") == []
    (run,) = runs()
    assert history(run, "test_error_pct") == [(1, 39), (2, 38)]
    assert run.data.params == {key: str(value) for key, value in SETTINGS.items()}
    assert (run.info.run_name, run.info.status) == ("a run", "FINISHED")
    assert (run.data.metrics["brier"], run.data.tags["tdbench.status"]) == (0.5, "done")


def test_a_run_that_was_stopped_goes_on_as_the_same_run(record, runs, tmp_path):
    assert record(tmp_path, "mlflow", epochs=(1, 2), status=TrialState.WAITING) == []
    assert [run.info.status for run in runs()] == ["KILLED"]
    assert record(tmp_path, "mlflow", epochs=(3, 4)) == []
    (run,) = runs()
    assert [step for step, _ in history(run, "train_loss")] == [1, 2, 3, 4]
    assert run.info.status == "FINISHED"
    (tmp_path / "logged.json").unlink()  # as --fresh does
    assert record(tmp_path, "mlflow") == []
    assert len(runs()) == 2


def test_epochs_beyond_the_checkpoint_of_a_killed_run_are_not_logged_twice(record, runs, tmp_path):
    assert record(tmp_path, "mlflow", epochs=(1, 2, 3), status=TrialState.KILLED) == []
    assert record(tmp_path, "mlflow", epochs=(2, 3, 4)) == []
    (run,) = runs()
    assert [step for step, _ in history(run, "train_loss")] == [1, 2, 3, 4]
    assert run.info.status == "FINISHED"


def test_a_sweep_is_the_parent_of_its_trials_and_has_the_verdicts(record_sweep, runs, tmp_path):
    (tmp_path / "summary.csv").write_text("block_size\n3\n")
    group, notes = record_sweep(tmp_path, "mlflow")
    assert notes == []
    sweep, trial = runs()
    assert trial.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert sweep.data.tags["tdbench.id"] == sweep.info.run_name == group
    assert sweep.data.tags["verdict block_size_3"] == "helps"
    assert sweep.data.metrics["delta_vs_baseline block_size_5"] == -0.5
    assert [one.path for one in mlflow.MlflowClient().list_artifacts(sweep.info.run_id)] == ["summary.csv"]


def test_a_search_has_ended_before_its_confirmation_adds_the_verdicts(runs, tmp_path):
    with SweepLog(["mlflow"], tmp_path, ["block_size"]) as search:
        assert [run.info.status for run in runs()] == ["RUNNING"]
    assert [run.info.status for run in runs()] == ["FINISHED"]
    SweepLog(["mlflow"], tmp_path / "confirm", ["arm"], group=search.group).end(SUMMARY)
    (run,) = runs()
    assert (run.info.status, run.data.tags["verdict block_size_3"]) == ("FINISHED", "helps")


def test_a_store_that_cannot_be_reached_costs_a_note(record, runs, tmp_path):
    mlflow.set_tracking_uri("nowhere://at.all")
    (note,) = record(tmp_path, "mlflow")
    assert "--log mlflow failed and is left out" in note
