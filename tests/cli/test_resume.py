"""A run that is stopped, killed or repeated on its folder goes on to the same figures, or refuses and harms nothing."""

import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tdbench.config import load_config
from tdbench.training import loop
from tdbench.training.run import Run

SAVED = ("--set", "checkpoint_every_s=0")  # after each epoch
SHORT = ("train", *SAVED, "--train-fraction", "0.1", "--batch-size", "16", "--epochs", "3")  # 3 epochs of 8 steps
LONG = (
    "train",
    *SAVED,
    "--train-fraction",
    "0.3",
    "--batch-size",
    "8",
    "--epochs",
    "3",
)  # 3 epochs of 54 steps, seconds
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix")


@pytest.fixture(scope="module")
def whole(cli, tmp_path_factory):
    """Return the folder of a short run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert cli(*SHORT, "--quiet", "--out", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def long_whole(cli, tmp_path_factory):
    """Return the folder of a longer run that was never interrupted."""
    folder = tmp_path_factory.mktemp("long") / "run"
    assert cli(*LONG, "--quiet", "--out", folder).code == 0
    return folder


@pytest.fixture
def at_step(monkeypatch) -> Callable[[int, Callable[[], object]], None]:
    """Do something once, when training has done so many steps of its whole run."""
    train_step = Run.train_step

    def plan(step: int, act: Callable[[], object]) -> None:
        def step_and_act(run: Run, *arguments: object) -> None:
            train_step(run, *arguments)
            if run.step == step:
                monkeypatch.setattr(Run, "train_step", train_step)
                act()

        monkeypatch.setattr(Run, "train_step", step_and_act)

    return plan


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@POSIX
@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 11), (signal.SIGINT, 15), (signal.SIGTERM, 16)]
)
def test_a_run_that_a_signal_stops_is_saved_and_the_same_command_ends_like_one_never_stopped(
    cli, whole, tmp_path, at_step, number, step
):
    at_step(step, lambda: signal.raise_signal(number))
    stopped = cli(*SHORT, "--out", "run")
    assert stopped.code == 130
    assert stopped.err.startswith(f"tdbench: stopped after step {step} of 24; run keeps it")
    assert len(stopped.err.splitlines()) == 1
    assert files(tmp_path / "run") == {".lock", "config.yaml", "environment.json", "metrics.csv", "checkpoint.pt"}
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]["step"] == step
    assert cli.figures(tmp_path / "run") == cli.figures(whole)[: step // 8]
    resumed = cli(*SHORT, "--out", "run")
    assert (resumed.code, resumed.err) == (0, "")
    assert f"resuming after step {step} of 24" in resumed.out
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


@POSIX
def test_a_run_stopped_many_times_ends_like_one_never_stopped(cli, whole, tmp_path, at_step):
    for step in (1, 2, 7, 9, 23):
        at_step(step, lambda: signal.raise_signal(signal.SIGTERM))
        assert cli(*SHORT, "--json", "--out", "run").code == 130
    assert cli(*SHORT, "--json", "--out", "run").code == 0
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


@POSIX
def test_a_signal_that_stops_at_once_is_answered_with_a_message(cli, monkeypatch):
    monkeypatch.setattr(loop, "Run", lambda *_: signal.raise_signal(signal.SIGINT))
    stopped = cli(*SHORT, "--out", "run")
    assert stopped.code == 130
    assert stopped.err == "tdbench: interrupted\n"


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_begins_ends_with_130_and_nothing_written(cli, tmp_path, monkeypatch, number):
    monkeypatch.setattr(loop, "Run", lambda *_: signal.raise_signal(number))
    stopped = cli(*SHORT, "--out", "run")
    assert (stopped.code, stopped.out) == (130, "")
    assert "Traceback" not in stopped.err
    assert list(tmp_path.iterdir()) == []


@POSIX
def test_a_second_signal_stops_at_once_and_what_was_saved_stays(cli, whole, tmp_path, at_step):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(11, twice)
    stopped = cli(*SHORT, "--out", "run")
    assert stopped.code == 130
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]["step"] == 8
    assert cli(*SHORT, "--out", "run").code == 0
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


@pytest.mark.slow
@POSIX
def test_processes_that_signals_stop_in_mid_epoch_end_with_130_and_are_resumed(cli, long_whole, tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM)
    processes = {number: cli.start(*LONG, "--out", number.name) for number in numbers}
    for number, process in processes.items():
        cli.wait_for((tmp_path / number.name / "checkpoint.pt").exists, process)
        process.send_signal(number)
    for number, process in processes.items():
        stopped = cli.finish(process)
        assert stopped.code == 130
        message = rf"tdbench: stopped after step (\d+) of 162; {number.name} keeps it.*\n"
        step = int(re.fullmatch(message, stopped.err)[1])
        assert 54 <= step < 162
        checkpoint = torch.load(tmp_path / number.name / "checkpoint.pt", weights_only=True)
        assert checkpoint["state"]["step"] == step
        assert cli(*LONG, "--out", number.name).code == 0
        assert cli.outcome(tmp_path / number.name) == cli.outcome(long_whole)


@POSIX
def test_a_folder_in_use_is_refused_and_after_kill_9_resumed_to_the_figures_of_a_run_never_killed(
    cli, long_whole, tmp_path
):
    process = cli.start(*LONG, "--out", "run")
    cli.wait_for((tmp_path / "run" / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGSTOP)  # it holds the folder, and writes no more
    before = cli.snapshot(tmp_path / "run")
    for option in ((), ("--fresh",)):
        second = cli(*LONG, *option, "--out", "run")
        assert (second.code, second.out) == (2, "")
        assert second.err.startswith("tdbench: run is in use by another process")
        assert len(second.err.splitlines()) == 1
    assert cli.snapshot(tmp_path / "run") == before
    process.send_signal(signal.SIGKILL)
    assert cli.finish(process).code == -signal.SIGKILL
    resumed = cli(*LONG, "--out", "run")
    assert resumed.code == 0
    assert re.search(r"resuming after step (54|108) of 162", resumed.out)
    assert cli.outcome(tmp_path / "run") == cli.outcome(long_whole)


KILLED_WHILE_WRITING = """
import os, signal, sys
from tdbench.cli import main
from tdbench.store import files as store
sync, left = os.fsync, int(sys.argv.pop(1))
def sync_and_die(handle):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)
os.fsync = sync_and_die
sys.exit(main(sys.argv[1:]))
"""
# Each file is synced before its rename, and its folder after it: config, environment, metrics; then a checkpoint and
# the metrics for each of three epochs; then the environment with what was measured, and the result.
LAST_SYNC = 2 * (3 + 3 * 2 + 2)


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("sync", range(1, LAST_SYNC + 1))
def test_kill_9_while_a_file_is_written_leaves_the_old_one_and_a_run_that_can_go_on(cli, whole, tmp_path, sync):
    killed = cli.finish(cli.start_python("-c", KILLED_WHILE_WRITING, str(sync), *SHORT, "--out", "run"))
    assert killed.code == -signal.SIGKILL
    check_readable(cli, tmp_path / "run", whole)
    assert cli(*SHORT, "--out", "run").code == 0
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)
    assert files(tmp_path / "run") == files(whole)


def check_readable(cli, folder: Path, whole: Path) -> None:
    """Fail unless each file of a killed run is whole, and its figures are those of the run never killed."""
    if (folder / "config.yaml").exists():
        assert load_config(folder / "config.yaml").digest() == cli.result(whole)["digest"]
    if (folder / "checkpoint.pt").exists():
        torch.load(folder / "checkpoint.pt", weights_only=True)
    if (folder / "metrics.csv").exists():
        rows = cli.figures(folder)
        assert rows == cli.figures(whole)[: len(rows)]
    if (folder / "result.json").exists():
        assert cli.outcome(folder) == cli.outcome(whole)


@POSIX
@pytest.mark.slow
def test_kill_9_at_twenty_random_moments_loses_nothing_that_was_saved(cli, long_whole, tmp_path):
    chance, moments, place = random.Random(0), [], 0
    for _ in range(20):
        folder = tmp_path / f"run{place}"
        saved = torch.load(folder / "checkpoint.pt")["state"]["step"] if (folder / "checkpoint.pt").exists() else 0
        process = cli.start(*LONG, "--out", folder)
        if chance.random() < 0.8:  # else it is killed wherever it is, while it starts too
            environment = folder / "environment.json"
            written = environment.stat().st_mtime_ns if environment.exists() else 0
            cli.wait_for(lambda: environment.exists() and environment.stat().st_mtime_ns > written, process)  # noqa: B023
        time.sleep(chance.uniform(0, 3))
        process.kill()
        moments.append(cli.finish(process).code)
        if folder.exists():
            check_readable(cli, folder, long_whole)
        if (folder / "checkpoint.pt").exists():
            assert torch.load(folder / "checkpoint.pt")["state"]["step"] >= saved
        if (folder / "result.json").exists():
            place += 1
    assert moments.count(-signal.SIGKILL) >= 10
    for folder in tmp_path.glob("run*"):
        assert cli(*LONG, "--out", folder).code == 0
        assert cli.outcome(folder) == cli.outcome(long_whole)
        assert files(folder) == files(long_whole)


def test_a_complete_folder_says_so_and_is_left_alone(cli):
    assert cli("train", *cli.tiny).code == 0
    (folder,) = Path("runs").iterdir()
    before = cli.snapshot(Path("runs"))
    again = cli("train", *cli.tiny)
    assert (again.code, again.err) == (0, "")
    assert f"{folder} holds this run already, done" in again.out
    for option in ("--quiet", "--json", "--resume"):
        assert cli("train", *cli.tiny, option).code == 0
    assert cli("train", folder / "config.yaml").code == 0
    assert cli.snapshot(Path("runs")) == before


def test_fresh_starts_a_complete_run_over_and_leaves_other_files_alone(cli, tmp_path):
    assert cli("train", *cli.tiny, "--out", "run").code == 0
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "plots").mkdir()
    before, outcome = cli.snapshot(tmp_path / "run"), cli.outcome(tmp_path / "run")
    again = cli("train", *cli.tiny, "--fresh", "--out", "run")
    assert (again.code, again.err) == (0, "")
    assert "holds this run already" not in again.out
    after = cli.snapshot(tmp_path / "run")
    assert after.keys() == before.keys()
    unchanged = {name for name in after if after[name][0] == before[name][0]}
    assert unchanged - {".lock"} == {"notes.txt", "plots"}
    assert cli.outcome(tmp_path / "run") == outcome


@POSIX
def test_fresh_starts_an_interrupted_run_over(cli, whole, tmp_path, at_step):
    at_step(11, lambda: signal.raise_signal(signal.SIGINT))
    assert cli(*SHORT, "--out", "run").code == 130
    again = cli(*SHORT, "--fresh", "--out", "run")
    assert again.code == 0
    assert "resuming" not in again.out
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


@POSIX
@pytest.mark.parametrize("finished", [True, False], ids=["complete", "interrupted"])
def test_a_folder_of_another_config_is_refused_with_what_differs_and_left_alone(cli, tmp_path, at_step, finished):
    if not finished:
        at_step(2, lambda: signal.raise_signal(signal.SIGINT))
    assert cli("train", *cli.tiny, "--out", "run").code == (0 if finished else 130)
    before = cli.snapshot(tmp_path)
    for option, key, there, here in (
        (("--lr", "0.2"), "optimizer.lr", "0.1", "0.2"),
        (("--seed", "4"), "seed", "0", "4"),
        (("--set", "k=7"), "regularizer.block_size", "5", "7"),
        (("--regularizer", "none"), "regularizer.name", "targetdrop", "none"),
        (("--sites", "stage3"), "regularizer.sites", "None", "stage3"),
    ):
        refused = cli("train", *cli.tiny, *option, "--out", "run")
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith("tdbench: run holds another run: ")
        assert re.search(rf"{key} is {there} there and \S*{here}\S* here", refused.err)
        assert "--fresh" in refused.err
        assert len(refused.err.splitlines()) == 1
    assert cli.snapshot(tmp_path) == before
    assert cli("train", *cli.tiny, "--seed", "4", "--fresh", "--out", "run").code == 0
    assert cli.result(tmp_path / "run")["seed"] == 4


@pytest.fixture(scope="module")
def interrupted(cli, tmp_path_factory):
    """Return the files of a short run that was interrupted after 11 of its 24 steps, and of another seed's."""
    place = tmp_path_factory.mktemp("interrupted")
    train_step = Run.train_step

    def step_and_stop(run: Run, *arguments: object) -> None:
        train_step(run, *arguments)
        if run.step == 11:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train_step", step_and_stop)
        for seed in ("0", "1"):
            assert cli(*SHORT, "--seed", seed, "--out", place / seed).code == 130
    return {seed: {path.name: path.read_bytes() for path in (place / seed).iterdir()} for seed in ("0", "1")}


def save(value: object, path: Path) -> None:
    torch.save(value, path)


LEFT_BY_A_KILL = f".checkpoint.pt.{16 * '0'}.tmp"
SPOILT: dict[str, tuple[Callable[[Path, dict], object], str]] = {
    "cut in half": (
        lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "cut short or damaged",
    ),
    "cut by a byte": (lambda path, _: path.write_bytes(path.read_bytes()[:-1]), "cut short or damaged"),
    "empty": (lambda path, _: path.write_bytes(b""), "cut short or damaged"),
    "text": (lambda path, _: path.write_text("not a checkpoint"), "cut short or damaged"),
    "a tensor": (lambda path, _: save(torch.zeros(3), path), "no checkpoint"),
    "a network's weights": (lambda path, _: save(torch.nn.Linear(2, 2).state_dict(), path), "no checkpoint"),
    "a whole network": (lambda path, _: save(torch.nn.Linear(2, 2), path), "cut short or damaged"),
    "another run's": (lambda path, runs: path.write_bytes(runs["1"]["checkpoint.pt"]), "another run"),
}


@pytest.fixture
def unfinished(interrupted, tmp_path) -> Path:
    """Return the folder of an interrupted run."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in interrupted["0"].items():
        (folder / name).write_bytes(content)
    return folder


@POSIX
@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_a_checkpoint_that_is_no_checkpoint_of_the_run_is_refused_and_left_alone(
    cli, interrupted, unfinished, spoil, words
):
    spoil(unfinished / "checkpoint.pt", interrupted)
    (unfinished / LEFT_BY_A_KILL).write_bytes(b"a part of a checkpoint")  # only a run that goes on removes it
    before = cli.snapshot(unfinished)
    refused = cli(*SHORT, "--out", "run")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"tdbench: {Path('run', 'checkpoint.pt')} ")
    assert words in refused.err
    assert "--fresh" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert cli.snapshot(unfinished) == before


@POSIX
@pytest.mark.parametrize("spoilt", ["cut in half", "another run's"])
def test_fresh_recovers_from_a_spoilt_checkpoint(cli, interrupted, unfinished, whole, spoilt):
    SPOILT[spoilt][0](unfinished / "checkpoint.pt", interrupted)
    (unfinished / LEFT_BY_A_KILL).touch()
    assert cli(*SHORT, "--fresh", "--out", "run").code == 0
    assert not (unfinished / LEFT_BY_A_KILL).exists()
    assert cli.outcome(unfinished) == cli.outcome(whole)


@POSIX
def test_an_interrupted_run_without_a_checkpoint_starts_again(cli, interrupted, whole, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(interrupted["0"]["config.yaml"])
    assert cli(*SHORT, "--out", "run").code == 0
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


@pytest.mark.parametrize("content", [b"", b"{", b'{"status": "done"}', b"[]", b"\xff\xfe"])
def test_a_result_that_no_run_wrote_is_refused_and_fresh_recovers(cli, tmp_path, content):
    assert cli("train", *cli.tiny, "--out", "run").code == 0
    outcome = cli.outcome(tmp_path / "run")
    (tmp_path / "run" / "result.json").write_bytes(content)
    before = cli.snapshot(tmp_path)
    refused = cli("train", *cli.tiny, "--out", "run")
    assert (refused.code, refused.out) == (2, "")
    assert "result.json" in refused.err
    assert "--fresh" in refused.err
    assert cli.snapshot(tmp_path) == before
    assert cli("train", *cli.tiny, "--fresh", "--out", "run").code == 0
    assert cli.outcome(tmp_path / "run") == outcome


UNREADABLE = {"binary": b"\xff\xfe\x00", "no YAML": b"seed: [1\n", "a list": b"- 1\n", "empty": b""}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_folder_with_a_config_that_no_run_wrote_is_refused_and_left_alone(cli, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    before = cli.snapshot(tmp_path)
    refused = cli("train", *cli.tiny, "--out", "run")
    assert (refused.code, refused.out) == (2, "")
    assert "config.yaml" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert cli.snapshot(tmp_path) == before


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_no_message_about_a_config_promises_that_fresh_would_help(cli, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    for option in ("--resume", "--fresh"):
        refused = cli("train", *cli.tiny, option, "--out", "run")
        assert refused.code == 2
        assert "--fresh" not in refused.err


@pytest.mark.parametrize("foreign", ["model: yolo\nepochs: 3\n", "services: {web: {image: nginx}}\n"])
def test_even_fresh_replaces_no_config_of_another_program(cli, tmp_path, foreign):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(foreign)
    before = cli.snapshot(tmp_path)
    for option in ("--resume", "--fresh"):
        refused = cli("train", *cli.tiny, option, "--out", "run")
        assert (refused.code, refused.out) == (2, "")
        assert "config.yaml" in refused.err
    assert cli.snapshot(tmp_path) == before


def test_files_of_a_run_without_its_config_are_refused_and_left_alone(cli, tmp_path):
    assert cli("train", *cli.tiny, "--out", "run").code == 0
    (tmp_path / "run" / "config.yaml").unlink()
    before = cli.snapshot(tmp_path)
    refused = cli("train", *cli.tiny, "--out", "run")
    assert (refused.code, refused.out) == (2, "")
    assert "no config.yaml" in refused.err
    assert cli.snapshot(tmp_path) == before


def test_a_folder_with_other_files_is_used_and_they_stay(cli, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert cli("train", *cli.tiny, "--out", "run").code == 0
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_the_config_of_a_run_repeats_it_in_its_own_folder_without_a_change(cli, tmp_path):
    assert cli("train", *cli.tiny, "--out", "run").code == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["max_steps"] == 3
    before = cli.snapshot(tmp_path)
    assert cli("train", os.path.join("run", "config.yaml"), "--out", "run").code == 0
    assert cli.snapshot(tmp_path) == before
