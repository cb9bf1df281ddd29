"""Driving a sweep: what is missing is run once, what happens is recorded, and the folder alone tells what is done."""

import errno
import os
import signal
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest

from tdbench.errors import DataError, Note
from tdbench.store.assignment import Log
from tdbench.store.folders import SweepFolder
from tdbench.store.loggers import LOGGERS, Package
from tdbench.store.progress import SweepObserver
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep.executors import LocalExecutor, cause_of_death
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.judging import Evidence
from tdbench.sweep.plan import make_plan
from tdbench.sweep.runner import Sweep
from tdbench.sweep.verdicts import summarise
from tdbench.sweep.worker import Assignment, Ended, Progressed, run_assignment

TINY = {
    "data": {"train_fraction": 0.1},
    "training": {"max_steps": 2, "batch_size": 32},
    "hardware": {"threads": 1},
}


def tiny_plan(seeds=(0, 1), base=TINY, **sweep):
    return make_plan(Experiment(base=base, sweep=sweep or {"block_size": (3, 5)}, seeds=seeds))


class Pretending:
    """An executor that trains nothing: each trial ends as it is told to, with a test error of its own."""

    def __init__(self, folder, ends=None, num_slots=2):
        self.folder, self.ends, self.num_free = folder, ends or {}, num_slots
        self.submitted, self._over = [], []

    def submit(self, assignment):
        self.num_free -= 1
        self.submitted.append(assignment)
        status, reason = self.ends.get(len(self.submitted), ("done", None))
        if status in ("done", "diverged"):
            run = self.folder.trial(assignment.digest)
            run.path.mkdir(parents=True, exist_ok=True)
            seed = assignment.config["seed"]
            error_pct = 10.0 + seed - (assignment.config["regularizer"]["name"] == "targetdrop")
            figures = {"test_error_pct": error_pct, "dropped_pct": 0.5, "error": reason}
            run.write_result(RunResult(TrialState(status), assignment.digest, seed, **figures))
        self._over.append(Ended(assignment.digest, TrialState(status), reason))

    def wait(self, timeout_s):
        self.num_free += len(self._over)
        over, self._over = self._over, []
        return over

    def stop(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "sweep")


def run(plan, folder, ends=None, retry_failed=False):
    folder.path.mkdir(parents=True, exist_ok=True)
    sweep, executor = Sweep(plan, folder), Pretending(folder, ends)
    sweep.run(executor, sweep.missing(retry_failed), SweepObserver())
    assert executor.closed
    sweep.write_tables(sweep.tables())
    return sweep, executor


def test_each_trial_runs_once_and_a_second_call_has_nothing_to_do(folder):
    plan = tiny_plan()
    sweep, executor = run(plan, folder)
    assert [assignment.digest for assignment in executor.submitted] == list(plan.trials)
    assert not sweep.unfinished()
    _, again = run(plan, folder)
    assert again.submitted == []


def test_more_values_and_seeds_run_only_what_is_new(folder):
    run(tiny_plan(), folder)
    larger = tiny_plan(seeds=(0, 1, 2), block_size=(3, 5, 7))
    _, executor = run(larger, folder)
    configs = [(a.config["seed"], a.config["regularizer"].get("block_size")) for a in executor.submitted]
    assert configs == [(0, 7), (1, 7), (2, None), (2, 3), (2, 5), (2, 7)]


def test_the_tables_hold_a_row_per_trial_and_per_value(folder):
    sweep, _ = run(tiny_plan(), folder)
    lines = (folder / "trials.csv").read_text().splitlines()
    assert lines[0].split(",")[:5] == ["trial", "status", "seed", "block_size", "digest"]
    assert len(lines) == 7
    rows = sweep.tables().summary
    assert [row.values["block_size"] for row in rows] == ["none", 3, 5]
    assert [row.n for row in rows] == [2, 2, 2]
    assert [row.test_error_pct_mean for row in rows] == [10.5, 9.5, 9.5]
    assert [row.delta_vs_baseline for row in rows] == [None, -1, -1]
    assert [row.dropped_pct for row in rows] == [0.5] * 3


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_failure_is_kept_with_its_reason_and_left_alone_until_it_is_asked_for(folder, status):
    plan = tiny_plan()
    sweep, _ = run(plan, folder, {2: (status, "no luck")})
    (record,) = sweep.unfinished().values()
    assert (record.status, record.error) == (status, "no luck")
    assert sum("no luck" in line for line in (folder / "trials.csv").read_text().splitlines()) == 1
    assert [row.n for row in sweep.tables().summary] == [2, 1, 2]
    _, again = run(plan, folder)
    assert again.submitted == []
    sweep, retried = run(plan, folder, retry_failed=True)
    assert len(retried.submitted) == 1
    assert retried.submitted[0].fresh == (status == "diverged")
    assert not sweep.unfinished()


def test_a_trial_that_failed_before_it_wrote_anything_can_be_run_again(folder):
    plan = tiny_plan(seeds=(0,), block_size=(3,))
    sweep, _ = run(plan, folder, {1: ("failed", "ImportError: no luck"), 2: ("failed", "ImportError: no luck")})
    assert len(sweep.unfinished()) == 2
    sweep.run(LocalExecutor([{}]), sweep.missing(retry_failed=True), SweepObserver())
    assert not sweep.unfinished()


def test_a_result_of_another_version_of_the_users_file_is_not_taken_for_this_trials(folder):
    plan = tiny_plan()
    run(plan, folder)
    trial = folder.trial(next(iter(plan.trials)))
    trial.write_result(replace(trial.read_result(), digest="0" * 12))
    sweep = Sweep(plan, folder)
    assert [record.status for record in sweep.unfinished().values()] == ["failed"]
    _, again = run(plan, folder, retry_failed=True)
    assert [assignment.fresh for assignment in again.submitted] == [True]


@pytest.mark.parametrize("status", ["killed", "waiting"])
def test_what_was_killed_or_stopped_goes_on_with_the_next_call(folder, status):
    plan = tiny_plan()
    sweep, _ = run(plan, folder, {2: (status, "signal 9" if status == "killed" else None)})
    assert len(sweep.unfinished()) == 1
    sweep, again = run(plan, folder)
    assert len(again.submitted) == 1
    assert not sweep.unfinished()


def test_a_stop_submits_nothing_more(folder):
    folder.path.mkdir()
    plan = tiny_plan()
    executor = Pretending(folder)
    sweep = Sweep(plan, folder)
    sweep.run(executor, sweep.missing(), SweepObserver(), lambda: len(executor.submitted) >= 2)
    sweep.write_tables(sweep.tables())
    assert 2 <= len(executor.submitted) <= 4
    assert len(sweep.missing()) == 6 - len(executor.submitted)
    assert (folder / "summary.csv").exists()


def test_a_full_disk_at_a_failure_does_not_end_the_sweep(folder, monkeypatch):
    def full(self, result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tdbench.store.folders.RunFolder.write_result", full)
    folder.path.mkdir()
    executor = Pretending(folder, dict.fromkeys(range(1, 7), ("failed", "cannot write")))
    sweep = Sweep(tiny_plan(), folder)
    sweep.run(executor, sweep.missing(), SweepObserver())
    assert [record.error for record in sweep.unfinished().values()] == ["cannot write"] * 6


# Real processes from here on.


def assignment_of(folder, plan, **options):
    digest, config = next(iter(plan.trials.items()))
    return Assignment(digest, config.dump(), folder.trial(digest).path, **options)


def wait_for_end(executor, seconds=60):
    events, end = [], time.monotonic() + seconds
    while not any(isinstance(event, Ended) for event in events):
        assert time.monotonic() < end
        events += executor.wait(0.1)
    return events


@pytest.fixture
def executor():
    executor = LocalExecutor([{"SLOT": "a"}])
    yield executor
    executor.close()


def test_a_trial_in_a_process_of_its_own_gives_what_it_gives_here(folder, executor, tmp_path):
    plan = tiny_plan()
    executor.submit(assignment_of(folder, plan))
    assert executor.num_free == 0
    events = wait_for_end(executor)
    assert isinstance(events[0], Progressed)
    assert events[-1].status == "done"
    assert executor.num_free == 1
    theirs = folder.trial(events[-1].digest).read_result()
    elsewhere = SweepFolder(tmp_path / "elsewhere")
    assert run_assignment(assignment_of(elsewhere, plan), lambda event: None).status == "done"
    ours = elsewhere.trial(events[-1].digest).read_result()
    for name in ("test_error_pct", "train_error_pct", "dropped_pct"):
        assert getattr(theirs, name) == getattr(ours, name)


def test_a_trial_that_raises_says_why(folder, executor):
    plan = tiny_plan(base={**TINY, "data": {"name": "folder", "root": "/nonexistent"}})
    executor.submit(assignment_of(folder, plan))
    ended = wait_for_end(executor)[-1]
    assert ended.status == "failed"
    assert "/nonexistent" in ended.reason


def test_a_logger_that_fails_costs_a_trial_nothing_and_whoever_drives_the_sweep_is_told(folder, monkeypatch):
    monkeypatch.setitem(LOGGERS, "missing", Package("nowhere:Nobody", "1", ()))
    plan = tiny_plan(seeds=(0,))
    ended = run_assignment(assignment_of(folder, plan, log=Log(("missing",))), lambda event: None)
    assert ended.status is TrialState.DONE
    (note,) = ended.notes
    assert note.startswith("--log missing failed and is left out: ModuleNotFoundError")

    class Answering(Pretending):
        def wait(self, timeout_s):
            return [replace(event, notes=(note,)) for event in super().wait(timeout_s)]

    sweep = Sweep(plan, folder)
    with pytest.warns(Note, match="--log missing failed") as told:
        sweep.run(Answering(folder), sweep.missing(), SweepObserver())
    assert len(sweep.done()) == len(plan.trials) == len(told) + 1  # one was done before


LONG = {**TINY, "training": {"max_steps": 100000, "epochs": 100000, "batch_size": 32}}


@pytest.mark.slow
def test_a_trial_that_is_killed_and_one_that_takes_too_long_are_told_apart(folder):
    executor = LocalExecutor([{}], timeout_s=4)
    try:
        executor.submit(assignment_of(folder, tiny_plan(base=LONG)))
        (running,) = executor._running.values()
        os.kill(running.process.pid, signal.SIGKILL)
        ended = wait_for_end(executor)[-1]
        assert ended.status == "killed"
        assert "signal 9 (SIGKILL" in ended.reason
        executor.submit(assignment_of(folder, tiny_plan(base=LONG)))
        (running,) = executor._running.values()
        ended = wait_for_end(executor)[-1]
        assert (ended.status, ended.reason) == ("failed", "ran past 4 s (--trial-timeout)")
        assert not running.process.is_alive()
    finally:
        executor.close()


def test_a_trial_that_is_asked_to_stop_saves_and_goes_on_later(folder, executor):
    assignment = assignment_of(folder, tiny_plan(base=LONG))
    executor.submit(assignment)
    while not any(isinstance(event, Progressed) for event in executor.wait(0.1)):
        pass
    executor.stop()
    assert wait_for_end(executor)[-1].status == "waiting"
    assert (assignment.folder / "checkpoint.pt").exists()


def drive_and_die(folder):
    """Begin a trial and be killed."""
    executor = LocalExecutor([{}])
    executor.submit(assignment_of(folder, tiny_plan(base=LONG)))
    while not any(isinstance(event, Progressed) for event in executor.wait(0.1)):
        pass
    (running,) = executor._running.values()
    (folder.path / "pid").write_text(str(running.process.pid))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_trial_ends_with_the_driver_however_that_ended(folder):
    folder.path.mkdir()
    driver = get_context("spawn").Process(target=drive_and_die, args=(folder,))
    driver.start()
    driver.join(120)
    assert driver.exitcode == -signal.SIGKILL
    pid = int((folder.path / "pid").read_text())
    end = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    """Return whether a process is there and no zombie that nobody has buried yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_causes_of_death_in_words():
    assert cause_of_death(-9) == "its process was ended by signal 9 (SIGKILL, as when memory runs out)"
    assert cause_of_death(3) == "its process ended by itself with exit code 3"


def test_what_is_kept_of_a_summary_ends_with_the_way_it_was_worked_out(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path)
    evidence = ["how", [[{"k": 3}, None, []]]]
    row = next(iter(summarise(Evidence({"k": {0: 1.0}}, {})).values()))
    folder.remember_summary(evidence, [row])
    assert folder.recall_summary(evidence) == (row,)
    assert folder.recall_summary(["otherwise", *evidence[1:]]) is None
    monkeypatch.setattr("tdbench.store.folders.__version__", "9.9")
    assert folder.recall_summary(evidence) is None


def test_a_full_disk_stops_a_sweep_and_its_trials_run_again_when_there_is_room(folder):
    plan = tiny_plan()
    folder.path.mkdir(parents=True)
    sweep, executor = Sweep(plan, folder), Pretending(folder)
    submit = executor.submit

    def fill(assignment):
        submit(assignment)
        if len(executor.submitted) == 3:
            (ended,) = [one for one in executor._over if one.digest == assignment.digest]
            executor._over.remove(ended)
            folder.trial(assignment.digest).path.joinpath("result.json").unlink()
            executor._over.append(Ended(assignment.digest, TrialState.KILLED, "no room", no_room=True))

    executor.submit = fill
    sweep.run(executor, sweep.missing(), SweepObserver())
    assert len(executor.submitted) < len(plan.trials)
    states = [result.status.value for result in sweep.records.values()]
    assert states.count("killed") == 1
    assert "waiting" in states
    again, _ = run(plan, folder)
    assert [result.status.value for result in again.records.values()] == ["done"] * len(plan.trials)


@pytest.mark.parametrize(
    ("where", "error", "no_room"),
    [
        ("tdbench.store.files.os.fsync", OSError(errno.ENOSPC, "No space left on device"), True),
        ("tdbench.store.files.os.fsync", OSError(errno.EIO, "Input/output error"), True),
        ("tdbench.store.files.os.fsync", PermissionError(errno.EACCES, "Permission denied"), False),
        ("tdbench.training.run.Run.train_step", OSError(errno.ENOSPC, "No space left on device"), True),
    ],
)
def test_what_cannot_be_written_is_no_failure_of_a_trial(folder, monkeypatch, where, error, no_room):
    plan = tiny_plan(seeds=(0,))
    digest, config = next(iter(plan.trials.items()))
    assignment = Assignment(digest, config.dump(), folder.trial(digest).path)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        ended = run_assignment(assignment, lambda event: None)
    assert (ended.status, ended.no_room) == (TrialState.KILLED, no_room)
    assert error.strerror in ended.reason
    assert not (assignment.folder / "result.json").exists()
    assert run_assignment(assignment, lambda event: None).status is TrialState.DONE


def test_a_file_that_cannot_be_read_is_a_failure_of_its_trial(folder, monkeypatch):
    plan = tiny_plan(seeds=(0,))
    digest, config = next(iter(plan.trials.items()))

    def fail(*_):
        raise DataError("image x.png cannot be decoded") from OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tdbench.training.setup.load_data", fail)
    ended = run_assignment(Assignment(digest, config.dump(), folder.trial(digest).path), lambda event: None)
    assert (ended.status, ended.no_room) == (TrialState.FAILED, False)


def test_a_bug_beside_a_read_only_disk_is_a_failure_of_its_trial(folder, monkeypatch):
    plan = tiny_plan(seeds=(0,))
    digest, config = next(iter(plan.trials.items()))

    def fail(*_):
        try:
            raise OSError(errno.EROFS, "Read-only file system")
        except OSError:
            raise ValueError("my bug")  # noqa: B904

    monkeypatch.setattr("tdbench.training.run.Run.train_step", fail)
    ended = run_assignment(Assignment(digest, config.dump(), folder.trial(digest).path), lambda event: None)
    assert (ended.status, ended.no_room) == (TrialState.FAILED, False)


def test_fresh_replaces_a_trial_with_a_damaged_configuration_and_takes_no_old_result_for_its_own(folder):
    plan = tiny_plan()
    run(plan, folder)
    damaged, done = (folder.trial(digest) for digest in list(plan.trials)[:2])
    (damaged / "config.yaml").write_bytes(b"\xff")
    sweep, executor = Sweep(plan, folder), Pretending(folder, {2: ("failed", "no luck")})
    sweep.run(executor, sweep.missing(fresh=True), SweepObserver(), fresh=True)
    assert not (damaged / "config.yaml").exists()
    states = [sweep.records[digest].status.value for digest in list(plan.trials)[:2]]
    assert states == ["done", "failed"]
    assert done.read_result().error == "no luck"
