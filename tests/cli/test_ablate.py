"""`tdbench ablate` as a user meets it."""

import csv
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from tdbench.cli.sweep_terminal import SilentSweep
from tdbench.store.rows import RunResult, SummaryRow, TrialRow, TrialState
from tdbench.sweep.ablate import open_sweep
from tdbench.sweep.asked import plan_sweep
from tdbench.sweep.slots import Slots

TIMINGS = {"train_img_per_s", "wall_s", "peak_mem_mib"}
TWO = ("ablate", "--param", "block_size", "--values", "3,5", "--seeds", "2")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: cell for key, cell in row.items() if key not in TIMINGS} for row in csv.DictReader(file)]


@pytest.fixture(scope="session")
def finished(cli, tmp_path_factory):
    """A sweep that is done."""
    folder = tmp_path_factory.mktemp("sweep") / "done"
    outcome = cli(*TWO, *cli.tiny, "--jobs", "1", "--out", folder)
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_sweep_leaves_its_tables_under_their_fixed_names(finished):
    folder, outcome = finished
    assert {"sweep.yaml", "trials", "trials.csv", "summary.csv", "summary.md", "plot.png", "plot.svg", "plot.pdf"} <= {
        path.name for path in folder.iterdir()
    }
    with (folder / "summary.csv").open() as file:
        assert next(csv.reader(file)) == SummaryRow.columns(["block_size"])
    with (folder / "trials.csv").open() as file:
        assert next(csv.reader(file)) == TrialRow.columns(["block_size"])
    assert len(list((folder / "trials").iterdir())) == 6
    assert [row["block_size"] for row in table(folder / "summary.csv")] == ["none", "3", "5"]
    assert table(folder / "summary.csv")[0]["verdict"] == "baseline"
    assert "verdict" in outcome.out
    assert "\x1b" not in outcome.out
    assert "3, seed 1: test error" in outcome.out


def test_the_same_command_again_trains_nothing_and_says_the_same(cli, copied):
    before = cli.snapshot(copied / "trials")
    outcome = cli(*TWO, *cli.tiny, "--jobs", "1", "--out", copied)
    assert outcome.code == 0
    assert cli.snapshot(copied / "trials") == before


def test_json_prints_the_summary_and_quiet_a_line(cli, copied):
    rows = json.loads(cli(*TWO, *cli.tiny, "--out", copied, "--json").out)
    assert [row["n"] for row in rows] == [2, 2, 2]
    assert list(rows[0]) == SummaryRow.columns(["block_size"])
    (line,) = cli(*TWO, *cli.tiny, "--out", copied, "--quiet").out.splitlines()
    assert line.startswith("6 trials done: 2 × ")


def test_a_dry_run_counts_the_trials_and_the_time_and_trains_nothing(cli, copied):
    before = cli.snapshot(copied)
    more = ("ablate", "--param", "k", "--values", "3,5,7", "--seeds", "2", *cli.tiny, "--out", copied, "--dry-run")
    counts = json.loads(cli(*more, "--json").out)
    assert (counts["trials"], counts["done"], counts["to_run"], len(counts["rows"])) == (8, 6, 2, 8)
    assert 0 < counts["time_left_s"] < 60
    assert cli.snapshot(copied) == before
    assert re.search(r"8 different trials, 6 done, 2 to run, about \d:\d\d left; nothing was trained", cli(*more).out)


@pytest.mark.slow
def test_a_dry_run_of_a_sequential_sweep_counts_the_best_and_the_worst_case(cli, tmp_path):
    command = ("ablate", "--param", "k=3,5", "--seeds", "3..5", *cli.tiny, "--out", tmp_path / "new", "--dry-run")
    counts = json.loads(cli(*command, "--json").out)
    assert (counts["trials"], counts["to_run"], counts["to_run_at_most"]) == (15, 9, 15)
    assert counts["time_left_at_most_s"] > counts["time_left_s"] > 0
    assert "9 to run until the next look, about " in cli(*command).out
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_sequential_sweep_is_told_look_by_look_and_goes_on_where_it_stood(cli, tmp_path):
    tiny = ("--train-fraction", "0.1", "--max-steps", "2", "--batch-size", "32", "--jobs", "1")
    command = ("ablate", "--param", "k=3", "--seeds", "3..4", *tiny, "--out", tmp_path / "sweep")
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    assert "2 values of block_size, 3 to 4 seeds each: at most 8 trials, 0 done before, 6 to run until" in outcome.out
    assert "  3 of at most 4 seeds:" in outcome.out
    rows = table(tmp_path / "sweep" / "summary.csv")
    assert [row["n"] for row in rows] == ["4", "4"]
    assert rows[1]["design"] == "3..4"
    assert rows[1]["verdict"].startswith("undecided at 4 seeds")
    assert "The design is sequential" in (tmp_path / "sweep" / "summary.md").read_text()
    again = cli(*command)
    assert "all 8 trials were run before; nothing to do" in again.out


@pytest.mark.slow
def test_a_dry_run_refuses_what_the_sweep_would_refuse_and_the_folder_stays_free(cli, tmp_path):
    command = (
        "ablate",
        *cli.tiny,
        "--param",
        "block_size=9,11",
        "--sites",
        "stage3",
        "--baseline",
        "off",
        "--out",
        tmp_path,
    )
    for more in (("--dry-run",), ()):
        refused = cli(*command, *more)
        assert refused.code == 2
        assert "block_size must be at most 8" in refused.err
    assert not (tmp_path / "sweep.yaml").exists()


@pytest.mark.slow
def test_a_dry_run_of_a_new_sweep_takes_the_time_from_a_few_steps(cli, tmp_path):
    more = ("--train-fraction", "0.1", "--batch-size", "32", "--epochs", "50", "--threads", "1")
    counts = json.loads(cli(*TWO, *more, "--dry-run", "--json", "--out", tmp_path / "new").out)
    assert counts["to_run"] == 6
    assert counts["time_left_s"] > 1
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_more_values_join_a_finished_sweep_and_another_sweep_does_not(cli, copied):
    before = cli.snapshot(copied / "trials")
    outcome = cli("ablate", "--param", "k=5,7", "--seeds", "2", *cli.tiny, "--jobs", "1", "--out", copied)
    assert outcome.code == 0, outcome.err
    after = cli.snapshot(copied / "trials")
    assert before.items() <= after.items()
    assert len([name for name in after if "/" not in name]) == 8
    assert "| 7" in (copied / "summary.md").read_text()
    refused = cli("ablate", "--param", "gamma", "--seeds", "2", *cli.tiny, "--out", copied)
    assert refused.code == 2
    assert "holds another sweep: sweeps is block_size there and drop_ratio here" in refused.err
    refused = cli("ablate", "--param", "k=5", "--metric", "test_error", "--seeds", "2", *cli.tiny, "--out", copied)
    assert refused.code == 2
    assert "metric must be one of test_error_pct, " in refused.err
    assert "got 'test_error'; did you mean test_error_pct?" in refused.err


@pytest.mark.slow
def test_a_failed_trial_is_told_with_its_reason_and_tried_again_when_asked(cli, copied):
    trial = next(row for row in table(copied / "trials.csv") if row["block_size"] == "5")["trial"]
    result = copied / "trials" / trial / "result.json"
    failed = json.loads(result.read_text()) | {"status": "failed", "test_error_pct": None, "error": "the disk is full"}
    result.write_text(json.dumps(failed))
    outcome = cli(*TWO, *cli.tiny, "--jobs", "1", "--out", copied)
    assert outcome.code == 1
    assert "failed, the disk is full" in outcome.out
    assert "the disk is full" in (copied / "summary.md").read_text()
    assert [row["n"] for row in table(copied / "summary.csv")] == ["2", "2", "1"]
    outcome = cli(*TWO, *cli.tiny, "--jobs", "1", "--out", copied, "--retry-failed")
    assert outcome.code == 0
    assert [row["n"] for row in table(copied / "summary.csv")] == ["2", "2", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["checkpoint.pt", "result.json"])
def test_a_damaged_trial_is_run_again_alone(cli, copied, damaged):
    row = next(row for row in table(copied / "trials.csv") if row["block_size"] == "5")
    trial, before = copied / "trials" / row["trial"], cli.snapshot(copied / "trials")
    if damaged == "checkpoint.pt":
        (trial / "result.json").unlink()
    (trial / damaged).write_bytes((trial / damaged).read_bytes()[:-100])
    again = (*TWO, *cli.tiny, "--jobs", "1", "--out", copied)
    if damaged == "result.json":
        told = cli(*again)
        assert told.code == 1
        assert "result.json cannot be read; --retry-failed runs the trial again" in told.out
        again = (*again, "--retry-failed")
    outcome = cli(*again)
    assert outcome.code == 0, outcome.out
    now = next(one for one in table(copied / "trials.csv") if one["trial"] == row["trial"])
    assert now["test_error_pct"] == row["test_error_pct"]
    after = cli.snapshot(copied / "trials")
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if name.startswith(row["trial"])
    }
    if damaged == "checkpoint.pt":
        assert "the trial starts over: " in (trial / "log.txt").read_text()


@pytest.mark.slow
def test_an_experiment_file_is_swept_with_flags_on_top(cli, tmp_path):
    file = tmp_path / "methods.yaml"
    base = {"data": {"train_fraction": 0.1}, "training": {"max_steps": 2, "batch_size": 32}}
    file.write_text(yaml.safe_dump({"base": base, "sweep": {"regularizer": ["targetdrop", "dropout"]}, "seeds": 1}))
    outcome = cli("ablate", file, "--jobs", "1", "--out", tmp_path / "out", "--set", "training.max_steps=1")
    assert outcome.code == 0, outcome.err
    rows = table(tmp_path / "out" / "summary.csv")
    assert [row["regularizer"] for row in rows] == ["none", "targetdrop", "dropout"]
    assert [row["verdict"] for row in rows] == ["baseline", "too few seeds", "too few seeds"]
    again = cli("ablate", tmp_path / "out" / "sweep.yaml", "--out", tmp_path / "out", "--quiet")
    assert again.code == 0
    assert "3 trials done" in again.out


@pytest.mark.slow
def test_a_share_that_was_missed_is_told_and_the_summary_says_what_was_asked_for(cli, tmp_path):
    flags = ("--param", "regularizer=targetdrop,dropblock", "--match", "dropped=1.5", "--seeds", "1", "--out", tmp_path)
    done = cli("ablate", *cli.tiny, *flags)
    assert done.code == 0, done.err
    assert "note: dropblock dropped" in done.out  # its rate rises over a schedule that has three steps here
    assert "not the 1.5 % that were asked for" in done.out
    assert "matched to 1.5 % dropped" in (tmp_path / "summary.md").read_text().splitlines()[0]


def test_a_folder_in_use_and_a_folder_of_a_run_are_refused(cli, copied, tmp_path):
    from tdbench.store.files import held

    with held(copied):
        outcome = cli(*TWO, *cli.tiny, "--out", copied)
    assert outcome.code == 2
    assert "is in use by another process" in outcome.err
    outcome = cli(*TWO, *cli.tiny, "--out", next((copied / "trials").iterdir()))
    assert outcome.code == 2
    assert "holds a run, no sweep" in outcome.err


SAVED = ("--set", "checkpoint_every_s=0")  # after each epoch
SWEPT = (*SAVED, "--train-fraction", "0.1", "--epochs", "6", "--batch-size", "32")


@pytest.mark.slow
def test_ctrl_c_saves_the_running_trials_and_the_same_command_goes_on(cli, tmp_path):
    command = (*TWO, *SWEPT, "--jobs", "2", "--out", tmp_path)
    process = cli.start(*command, start_new_session=True)
    cli.wait_for(lambda: list(tmp_path.glob("trials/*/checkpoint.pt")), process)
    os.killpg(process.pid, signal.SIGINT)
    outcome = cli.finish(process)
    assert outcome.code == 130, outcome.err
    assert "the same command goes on from there" in outcome.err
    assert (tmp_path / "summary.csv").exists()
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    assert [row["n"] for row in table(tmp_path / "summary.csv")] == ["2", "2", "2"]


def workers_of(folder: Path) -> list[int]:
    """Return the processes that hold a file in a folder open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(folder) in os.readlink(handle) for handle in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_kill_9_at_any_moment_of_any_process_loses_nothing_and_changes_nothing(cli, tmp_path):
    """Twenty times: the driver, a worker, or all at once are killed at a random moment, then the sweep is finished."""
    chance = random.Random(0)
    command = (*TWO, *SWEPT, "--jobs", "2", "--threads", "1")
    begun = time.monotonic()
    assert cli.finish(cli.start(*command, "--out", tmp_path / "whole")).code == 0
    length_s = time.monotonic() - begun
    for turn in range(20):
        folder = tmp_path / str(turn)
        process = cli.start(*command, "--out", folder)
        time.sleep(chance.uniform(0.1, 1.0) * length_s)
        victims = {"driver": [process.pid], "worker": workers_of(folder / "trials")[:1]}
        victims["all"] = [*victims["driver"], *workers_of(folder / "trials")]
        kind = chance.choice(list(victims))
        for victim in victims[kind]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        outcome = cli.finish(process)
        if kind == "worker":
            assert outcome.code in (0, 1), outcome.err
        outcome = cli.finish(cli.start(*command, "--out", folder))
        assert outcome.code == 0, (turn, kind, outcome.out, outcome.err)
        assert table(folder / "summary.csv") == table(tmp_path / "whole" / "summary.csv"), (turn, kind)
        assert len(list((folder / "trials").iterdir())) == 6
        end = time.monotonic() + 10
        while workers_of(folder):
            assert time.monotonic() < end, (turn, kind)
            time.sleep(0.1)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_ray_runs_the_same_trials_and_a_worker_that_is_lost_changes_nothing(cli, tmp_path):
    pytest.importorskip("ray")
    command = (*TWO, *SWEPT, "--jobs", "2", "--threads", "1")
    assert cli.finish(cli.start(*command, "--out", tmp_path / "here")).code == 0
    there = tmp_path / "there"
    process = cli.start(*command, "--executor", "ray", "--out", there)
    cli.wait_for(lambda: list(there.glob("trials/*/checkpoint.pt")), process)
    os.kill(workers_of(there / "trials")[0], signal.SIGKILL)
    outcome = cli.finish(process)
    assert outcome.code == 0, outcome.err
    assert table(there / "summary.csv") == table(tmp_path / "here" / "summary.csv")
    assert len(list((there / "trials").iterdir())) == 6


@pytest.mark.slow
def test_ctrl_c_stops_trials_on_ray_too(cli, tmp_path):
    pytest.importorskip("ray")
    long = (*SAVED, "--train-fraction", "0.3", "--epochs", "400", "--batch-size", "32", "--jobs", "2", "--threads", "1")
    process = cli.start(*TWO, *long, "--executor", "ray", "--out", tmp_path)
    cli.wait_for(lambda: list(tmp_path.glob("trials/*/checkpoint.pt")), process)
    process.send_signal(signal.SIGINT)
    outcome = cli.finish(process)
    assert outcome.code == 130, outcome.err
    assert not list(tmp_path.glob("trials/*/result.json"))


def test_a_run_is_not_put_into_a_sweep_s_folder_nor_a_sweep_among_another_s_trials(cli, copied):
    refused = cli("train", *cli.tiny, "--out", copied)
    assert (refused.code, "holds a sweep, no run" in refused.err) == (2, True)
    refused = cli(*TWO, *cli.tiny, "--out", copied / "trials" / "new", "--dry-run")
    assert (refused.code, "lies among the trials of the sweep" in refused.err) == (2, True)
    assert not (copied / "trials" / "new").exists()


def test_a_trial_that_waits_is_left_and_one_that_ended_is_not(copied):
    sweep = open_sweep(plan_sweep(copied / "sweep.yaml", (), (), None, None, {}), copied)
    told = SilentSweep(sweep, Slots([{}], None, 1.0))
    told.began(3)
    for status in (TrialState.DONE, TrialState.FAILED, TrialState.WAITING):
        digest = next(iter(sweep.records))
        told.trial_began(digest)
        told.trial_ended(digest, RunResult(status, digest, 0))
    assert (told.num_left, told.num_ended) == (1, 3)
