"""Trials as Slurm jobs: by submitit's own local and debug executors, and by a Slurm of four scripts."""

import csv
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tdbench.config import load_config
from tdbench.errors import ConfigError, TdbenchError
from tdbench.store.assignment import Assignment, Ended, Progressed
from tdbench.store.folders import LOG, RESULT
from tdbench.store.progress import Progress
from tdbench.store.rows import TrialState
from tdbench.sweep import slurm_executor, slurm_job
from tdbench.sweep.execution import Execution
from tdbench.sweep.slurm import MOST_JOBS, SlurmOptions, slurm_options, submitit_module
from tdbench.sweep.slurm_executor import SlurmExecutor

LOCAL = SlurmOptions("local")
AFAR = Progress(1, 2, 3, 4, 8, 0.5, 10.0, None, 100.0)


# What jobs ask for


def test_options_are_submitit_s_by_other_names():
    given = "partition=gpu,time=1-02:30:10,memory=500M,gpus=2,cpus=8,account=lab,qos=low,constraint=a100"
    parameters = {
        "slurm_partition": "gpu",
        "timeout_min": 26 * 60 + 31,
        "mem_gb": 500 / 1024,
        "gpus_per_node": 2,
        "cpus_per_task": 8,
        "slurm_account": "lab",
        "slurm_qos": "low",
        "slurm_constraint": "a100",
    }
    assert slurm_options(given) == SlurmOptions("slurm", parameters)
    assert slurm_options({"time": 90, "memory": "16G", "cluster": "local"}) == SlurmOptions(
        "local", {"timeout_min": 90, "mem_gb": 16.0}
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("partion=gpu", "unknown --slurm option 'partion'; did you mean partition"),
        ("partition", "--slurm partition must have a value: partition=VALUE"),
        ("time=soon", "--slurm time must be minutes, H:MM:SS or D-HH:MM:SS, more than 0, got 'soon'"),
        ("time=0:00:00", "more than 0, got '0:00:00'"),
        ("memory=lots", "--slurm memory must be a size such as 16G or 500M, got 'lots'"),
        ("gpus=-1", "--slurm gpus must be a whole number of at least 0, got '-1'"),
        ("cpus=0", "--slurm cpus must be a whole number of at least 1, got '0'"),
        (5, "slurm must be a table or a text such as 'partition=gpu,cpus=4', got 5"),
        ("cluster=slrm", "unknown --slurm cluster 'slrm'; did you mean slurm"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_else(given, words):
    with pytest.raises(ConfigError, match=words):
        Execution(executor="slurm", slurm=given)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match="--slurm goes with --executor slurm, got time=5"):
        Execution(slurm="time=5")
    with pytest.raises(ConfigError, match=r"with Slurm it is --slurm gpus=N"):
        Execution(executor="slurm", gpus="0")


def test_places_are_jobs_and_threads_the_cpus_of_one():
    hardware = load_config().hardware
    slots = Execution(executor="slurm", slurm="cpus=6").slots(hardware)
    assert (len(slots.environments), slots.threads) == (MOST_JOBS, 6)
    slots = Execution(executor="slurm", jobs=3).slots(hardware)
    assert (len(slots.environments), slots.threads) == (3, None)


def test_without_submitit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r'pip install "tdbench\[slurm\]"'):
        submitit_module()


def test_an_old_submitit_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace())
    monkeypatch.setattr("tdbench.sweep.slurm.version", lambda package: "1.4.6")
    with pytest.raises(ConfigError, match=r"needs submitit 1.5 or newer, got 1.4.6"):
        submitit_module()


# A Slurm of scripts


SBATCH = """#!/bin/sh
n=$(($(cat {place}/count 2>/dev/null || echo 0) + 1))
echo $n > {place}/count
cp "$1" {place}/$n.sh
echo PENDING > {place}/$n.state
echo "Submitted batch job $n"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
for one in {place}/*.state; do echo "$(basename $one .state)|$(cat $one)|"; done
"""
SCANCEL = "#!/bin/sh\necho CANCELLED > {place}/$1.state\n"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return the folder of a Slurm that queues jobs and never begins one."""
    pytest.importorskip("submitit")
    place = tmp_path / "cluster"
    place.mkdir()
    for name, text in {"sbatch": SBATCH, "sacct": SACCT, "scancel": SCANCEL, "srun": "#!/bin/sh\n"}.items():
        (place / name).write_text(text.format(place=place))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_executor, "LOOK_EVERY_S", 0.0)
    return place


def states(cluster):
    return {path.stem: path.read_text().strip() for path in cluster.glob("*.state")}


def assignment_in(folder, **changes):
    return replace(Assignment("abc", {}, folder / "abc", target="tests.sweep.trial_target"), **changes)


def test_a_job_asks_for_what_was_given_and_its_files_lie_with_the_trial(cluster, tmp_path):
    executor = SlurmExecutor(slurm_options("partition=gpu,time=90,memory=16G,gpus=1,cpus=4"), 5)
    executor.submit(assignment_in(tmp_path))
    asked = (cluster / "1.sh").read_text()
    for line in ("--partition=gpu", "--time=90", "--mem=16GB", "--gpus-per-node=1", "--cpus-per-task=4"):
        assert f"#SBATCH {line}\n" in asked
    assert "#SBATCH --job-name=tdbench-abc\n" in asked
    assert f"#SBATCH --output={tmp_path}/abc/slurm/%j_0_log.out" in asked
    assert (tmp_path / "abc" / "slurm" / "1_submitted.pkl").exists()
    assert executor.num_free == 4


def test_the_jobs_of_a_killed_driver_are_taken_up_and_not_submitted_again(cluster, tmp_path):
    SlurmExecutor(SlurmOptions(), 5).submit(assignment_in(tmp_path))
    again = SlurmExecutor(SlurmOptions(), 5)
    again.submit(assignment_in(tmp_path))
    assert states(cluster) == {"1": "PENDING"}
    (tmp_path / "abc" / "slurm" / "begun").touch()
    (tmp_path / "abc" / "slurm" / "progress.json").write_text(
        '{"epoch": 1, "num_epochs": 2, "step": 3, "num_steps": 4, "batch_size": 8, "train_loss": 0.5,'
        ' "train_error_pct": 10.0, "test_error_pct": null, "train_img_per_s": 100.0}'
    )
    assert again.wait(0) == [Progressed("abc", AFAR)]
    assert again.wait(0) == []


def test_what_is_to_start_over_takes_the_old_job_out_of_the_queue(cluster, tmp_path):
    SlurmExecutor(SlurmOptions(), 5).submit(assignment_in(tmp_path))
    SlurmExecutor(SlurmOptions(), 5).submit(assignment_in(tmp_path, fresh=True))
    assert states(cluster) == {"1": "CANCELLED", "2": "PENDING"}
    assert [path.name for path in (tmp_path / "abc" / "slurm").glob("*.pkl")] == ["2_submitted.pkl"]


def test_stop_takes_queued_jobs_out_and_asks_running_ones(cluster, tmp_path):
    executor = SlurmExecutor(SlurmOptions(), 5)
    for digest in ("queued", "runs"):
        executor.submit(Assignment(digest, {}, tmp_path / digest))
    (tmp_path / "runs" / "slurm" / "begun").touch()
    executor.stop()
    assert states(cluster) == {"1": "CANCELLED", "2": "PENDING"}
    assert (tmp_path / "runs" / "slurm" / "stop").exists()
    executor.close()
    assert states(cluster) == {"1": "CANCELLED", "2": "CANCELLED"}
    assert executor.num_free == 5


def test_a_job_that_ran_for_too_long_is_cancelled(cluster, tmp_path):
    executor = SlurmExecutor(SlurmOptions(), 5, timeout_s=0.01)
    executor.submit(assignment_in(tmp_path))
    assert executor.wait(0) == []  # in the queue the time does not count
    (tmp_path / "abc" / "slurm" / "begun").touch()
    executor.wait(0)
    time.sleep(0.02)
    assert executor.wait(0) == [Ended("abc", TrialState.FAILED, "ran past 0.01 s (--trial-timeout)")]
    assert states(cluster) == {"1": "CANCELLED"}


def test_a_job_that_slurm_refuses_is_one_message(cluster, tmp_path):
    (cluster / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
    with pytest.raises(TdbenchError, match=r"Slurm does not take a trial's job: .*invalid partition specified: gpu"):
        SlurmExecutor(slurm_options("partition=gpu"), 5).submit(assignment_in(tmp_path))


def test_without_slurm_the_way_to_try_it_is_named(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no Slurm here \(srun is not found\); --slurm cluster=local"):
        SlurmExecutor(SlurmOptions(), 1)


# In the job


def test_the_debug_executor_runs_a_trial_in_this_process(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(slurm_executor, "LOOK_EVERY_S", 0.0)
    executor = SlurmExecutor(SlurmOptions("debug"), 1)
    executor.submit(assignment_in(tmp_path))
    assert executor.wait(0)[-1] == Ended("abc", TrialState.DONE, "asked to stop: False")
    executor.submit(assignment_in(tmp_path))
    executor.stop()
    assert executor.wait(0)[-1] == Ended("abc", TrialState.WAITING)


def test_a_signal_is_kept_until_the_trial_has_saved_and_then_is_submitit_s(tmp_path, monkeypatch):
    monkeypatch.delenv("SUBMITIT_DEBUG_JOB_ID", raising=False)
    monkeypatch.setattr(os, "dup2", lambda *streams: None)
    came = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: came.append((number, saved.exists())))
    saved = tmp_path / "abc" / "saved"
    try:
        trial = slurm_job.SlurmTrial(assignment_in(tmp_path, config={"signal": True}, fresh=True))
        assert trial() == Ended("abc", TrialState.WAITING)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert came == [(signal.SIGUSR2, True)]
    assert trial.checkpoint().function.assignment == replace(trial.assignment, fresh=False)


LONG = {
    "data.train_fraction": 0.3,
    "epochs": 8,
    "batch_size": 32,
    "threads": 1,
    "evaluate.bn_batches": 0,
    "training.checkpoint_every_s": 0,
}


def until(condition, executor, seconds=200):
    """Wait until something holds; return what ended meanwhile."""
    ended, end = [], time.monotonic() + seconds
    while not condition(ended):
        assert time.monotonic() < end
        ended += [event for event in executor.wait(0.1) if isinstance(event, Ended)]
    return ended


def figures(folder):
    with (folder / "metrics.csv").open() as file:
        return [(row["epoch"], row["train_loss"], row["test_error_pct"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_preempted_trial_saves_is_queued_again_and_comes_to_what_it_would_have(tmp_path):
    pytest.importorskip("submitit")
    config = load_config(None, LONG)
    executor = SlurmExecutor(LOCAL, 2)
    for folder in (tmp_path / "plain", tmp_path / "preempted"):
        executor.submit(Assignment(config.digest(), config.dump(), folder))
        run = executor._running[config.digest()]
        if folder.name == "preempted":
            until(lambda ended, saved=folder / "checkpoint.pt": saved.exists() or ended, executor)
            (task,) = Path(f"/proc/{run.job.job_id}/task/{run.job.job_id}/children").read_text().split()
            os.kill(int(task), signal.SIGUSR2)
        assert until(lambda ended: ended, executor) == [Ended(config.digest(), TrialState.DONE)]
    assert "Requeued job" in (tmp_path / "preempted" / LOG).read_text()
    assert figures(tmp_path / "preempted") == figures(tmp_path / "plain")


@pytest.mark.slow
def test_a_killed_job_goes_on_in_the_next_and_a_stopped_one_waits(tmp_path):
    pytest.importorskip("submitit")
    config = load_config(None, {**LONG, "epochs": 400})
    assignment = Assignment(config.digest(), config.dump(), tmp_path / "trial")
    executor = SlurmExecutor(LOCAL, 1)
    executor.submit(assignment)
    until(lambda ended: (tmp_path / "trial" / "checkpoint.pt").exists() or ended, executor)
    run = executor._running[config.digest()]
    (task,) = Path(f"/proc/{run.job.job_id}/task/{run.job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGKILL)
    (ended,) = until(lambda ended: ended, executor)
    assert ended.status is TrialState.KILLED
    assert f"its job {run.job.job_id} ended without a result" in ended.reason
    executor.submit(assignment)
    until(lambda ended: (run.place / "begun").exists() or ended, executor)
    executor.stop()
    assert until(lambda ended: ended, executor) == [Ended(config.digest(), TrialState.WAITING)]
    assert not (tmp_path / "trial" / RESULT).exists()
