"""`torchrun -m tdbench train`: two processes end as one does, and whatever ends one of them ends both, resumable."""

import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

SAVED = ("--set", "checkpoint_every_s=0")  # after each epoch
LONG = (*SAVED, "--train-fraction", "0.3", "--batch-size", "8", "--epochs", "3")  # 3 epochs of 53 or 54 steps
FILES = {"predictions.npz", ".lock", "config.yaml", "environment.json", "metrics.csv", "result.json", "checkpoint.pt"}

CODE = """
import os
import torch
from torch import nn
from tdbench.regularizers.base import Regularizer

class Halves(nn.Module):
    '''The one half of the network is left out in every other step; one process can be made to fail.'''

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.odd, self.even = nn.Linear(128, num_classes), nn.Linear(128, num_classes)
        self.num_steps = 0

    def forward(self, x):
        self.num_steps += self.training
        if os.environ.get("FAILS", "none") in (os.environ.get("RANK"), "all") and self.num_steps == 20:
            raise MemoryError("none is left")
        return (self.odd if self.num_steps % 2 else self.even)(self.stem(x))

def make_model(num_classes, in_channels):
    return Halves(num_classes, in_channels)
"""

LATE = """
import atexit, sys, time

@atexit.register  # registered first, it runs last: no other thread gets the interpreter's lock before the teardown
def keep_the_lock(now=time.monotonic):
    sys.setswitchinterval(1000)
    until = now() + 2
    while now() < until:
        pass

class LetsGo:
    def __del__(self, sleep=time.sleep):  # in the teardown
        sleep(0.5)

kept = LetsGo()

import torch
import torch.distributed as dist
from tdbench.cli import main
from tdbench.training.parallel import _Joined

def leave(self):  # a message that arrives in process 0 in the two seconds above
    time.sleep(self.rank)
    dist.all_gather([torch.empty(8), torch.empty(8)], torch.ones(8), async_op=True)
    time.sleep(2 * self.rank)

_Joined.leave = leave
sys.exit(main(sys.argv[1:]))
"""

FAILS_LATE = LATE.replace(
    """_Joined.leave = leave
""",
    """agree = _Joined.first_failure

def first_failure(self, error):
    first = agree(self, error)
    leave(self)
    return first

_Joined.first_failure = first_failure
""",
)


class Torchrun:
    """Calls `tdbench train` in two processes."""

    def __init__(self, cli) -> None:
        self.cli = cli
        self.agents: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: object, number: int = 2, program: tuple[str, ...] = ("-m", "tdbench"), **variables: str
    ) -> subprocess.Popen[str]:
        command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number))
        command += (*program, "train", *map(str, arguments))
        agent = self.cli.start_python(*command, env=self.cli.environment(**variables))
        self.agents.append(agent)
        return agent

    def __call__(self, *arguments: object, **options):
        return self.cli.finish(self.start(*arguments, **options))

    @staticmethod
    def workers(agent: subprocess.Popen[str]) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]
        return []

    def kill_all(self, agent: subprocess.Popen[str]) -> None:
        workers = self.workers(agent)
        agent.kill()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.communicate()


@pytest.fixture
def torchrun(cli) -> Iterator[Torchrun]:
    torchrun = Torchrun(cli)
    yield torchrun
    for agent in torchrun.agents:
        torchrun.kill_all(agent)


@pytest.fixture(scope="module")
def whole(cli, tmp_path_factory) -> Path:
    """Return the folder of a run in two processes that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = Torchrun(cli)(*LONG, "--quiet", "--out", folder)
    assert done.code == 0, done.err
    return folder


def said(outcome) -> list[str]:
    """Return what tdbench said on stderr, beside what torchrun says."""
    return [line for line in outcome.err.splitlines() if line.startswith("tdbench:")]


def exit_codes(outcome) -> set[int]:
    """Return the exit codes of the processes that failed, as torchrun reports them."""
    return {int(code) for code in re.findall(r"exitcode *: (-?\d+)", outcome.err)}


def test_two_processes_learn_what_one_does(cli, torchrun, tmp_path):
    assert cli("train", "--quiet", "--out", "one").code == 0
    done = torchrun("--json", "--out", "two")
    assert done.code == 0, done.err
    one, two = cli.result(tmp_path / "one"), cli.result(tmp_path / "two")
    assert json.loads(done.out) == two
    assert {path.name for path in (tmp_path / "two").iterdir()} == FILES
    assert (tmp_path / "one" / "config.yaml").read_text() == (tmp_path / "two" / "config.yaml").read_text()
    # Batch normalisation sees half a batch, so the runs differ like two seeds. Both estimate a test error of at most
    # 3 % from 360 images: their difference has a standard deviation of at most √(2 · 0.03 · 0.97 / 360) = 1.27 points.
    bound = 4 * 100 * math.sqrt(2 * 0.03 * 0.97 / 360)
    assert max(one["test_error_pct"], two["test_error_pct"]) <= 3
    assert abs(one["test_error_pct"] - two["test_error_pct"]) <= bound
    assert two["dropped_pct"] == pytest.approx(one["dropped_pct"], rel=0.05)


def test_the_same_command_repeats_a_run_bit_for_bit(cli, torchrun, whole, tmp_path):
    done = torchrun(*LONG, "--out", "again")
    assert done.code == 0
    assert len(re.findall("^test error, last epoch", done.out, re.MULTILINE)) == 1
    assert cli.outcome(tmp_path / "again") == cli.outcome(whole)
    weights = [torch.load(folder / "checkpoint.pt")["state"]["model"] for folder in (whole, tmp_path / "again")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize(
    ("number", "target"), [(signal.SIGTERM, "torchrun"), (signal.SIGINT, "torchrun"), (signal.SIGTERM, "a worker")]
)
def test_processes_that_a_signal_stops_are_saved_and_end_like_some_never_stopped(
    cli, torchrun, whole, tmp_path, number, target
):
    agent = torchrun.start(*LONG, "--out", "run")
    cli.wait_for((tmp_path / "run" / "checkpoint.pt").exists, agent)
    os.kill(agent.pid if target == "torchrun" else torchrun.workers(agent)[1], number)
    stopped = cli.finish(agent)
    assert stopped.code != 0
    (message,) = said(stopped)
    step = int(re.match(r"tdbench: stopped after step (\d+) of 162; run keeps it", message)[1])
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert (state["step"], len(state["processes"])) == (step, 2)
    resumed = torchrun(*LONG, "--out", "run")
    assert resumed.code == 0
    assert f"resuming after step {step} of 162" in resumed.out
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


def test_after_kill_9_of_all_at_random_moments_the_same_command_ends_like_one_never_killed(
    cli, torchrun, whole, tmp_path
):
    chance, saved = random.Random(0), tmp_path / "run" / "checkpoint.pt"
    longest_s = cli.result(whole)["wall_s"] / 5  # four of them do not bring the run to its end
    for _ in range(4):
        agent = torchrun.start(*LONG, "--out", "run")
        environment = tmp_path / "run" / "environment.json"
        written = environment.stat().st_mtime_ns if environment.exists() else 0
        cli.wait_for(lambda: environment.exists() and environment.stat().st_mtime_ns > written, agent)  # noqa: B023
        time.sleep(chance.uniform(0, longest_s))
        torchrun.kill_all(agent)
        if saved.exists():
            torch.load(saved, weights_only=True)
    assert torchrun(*LONG, "--quiet", "--out", "run").code == 0
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


@pytest.mark.parametrize("rank", [0, 1])
def test_kill_9_of_one_process_ends_the_other_with_one_message_and_the_run_goes_on(
    cli, torchrun, whole, tmp_path, rank
):
    agent = torchrun.start(*LONG, "--out", "run")
    cli.wait_for((tmp_path / "run" / "checkpoint.pt").exists, agent)
    os.kill(torchrun.workers(agent)[rank], signal.SIGKILL)
    ended = cli.finish(agent)
    assert ended.code != 0
    (message,) = said(ended)
    assert re.search(
        r"run failed in epoch \d+: another of its processes ended without saying why; the same command", message
    )
    resumed = torchrun(*LONG, "--out", "run")
    assert resumed.code == 0
    assert "resuming after step" in resumed.out
    assert cli.outcome(tmp_path / "run") == cli.outcome(whole)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_fails_ends_all_with_its_reason_in_one_message(cli, torchrun, tmp_path, rank):
    (tmp_path / "code.py").write_text(CODE)
    command = ("--model", "code.py:make_model", "--regularizer", "none", *LONG, "--out", "run")
    failed = torchrun(*command, FAILS=rank)
    assert failed.code != 0
    line = 1 + CODE[: CODE.index("none is left")].count("\n")
    reason = f"MemoryError: none is left (code.py, line {line})"
    again = "the same command tries again, and --fresh or another --out once you have changed your code"
    assert said(failed) == [f"tdbench: the run failed in epoch 1: {reason}; {again}"]
    result = cli.result(tmp_path / "run")
    assert (result["status"], result["error"]) == ("failed", reason)
    assert torchrun(*command).code == 0
    assert cli.result(tmp_path / "run")["status"] == "done"


def test_weights_that_steps_leave_out_are_trained_as_one_process_trains_them(cli, torchrun, tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    command = ("--model", "code.py:make_model", "--regularizer", "none", "--precision", "fp32", *LONG)
    assert cli("train", *command, "--out", "one").code == 0
    assert torchrun(*command, "--out", "two").code == 0
    for one, two in zip(cli.rows(tmp_path / "one"), cli.rows(tmp_path / "two"), strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(two["train_loss"]), rel=1e-3)
        assert float(one["test_error_pct"]) == pytest.approx(float(two["test_error_pct"]), abs=100 * 2 / 360)


def test_a_run_is_refused_to_more_or_fewer_processes_than_began_it(cli, torchrun, tmp_path):
    agent = torchrun.start(*LONG, "--out", "run")
    cli.wait_for((tmp_path / "run" / "checkpoint.pt").exists, agent)
    torchrun.kill_all(agent)
    before = cli.snapshot(tmp_path / "run")
    refused = cli("train", *LONG, "--out", "run")
    assert (refused.code, refused.out) == (2, "")
    assert "begun in 2 process(es) and would go on in 1" in refused.err
    many = cli.finish(torchrun.start(*LONG, "--out", "run", number=4))
    assert "begun in 2 process(es) and would go on in 4" in "".join(said(many))
    assert len(said(many)) == 1
    assert exit_codes(many) <= {2, -signal.SIGTERM}
    assert cli.snapshot(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "33"), "training.batch_size must be a multiple of 2, the number of processes"),
        (("--device", "cuda:0"), "device cuda:0 is a single one"),
        (("--set", "gamma=7"), "drop_ratio"),
    ],
)
def test_what_cannot_be_is_refused_in_one_message_with_exit_code_2(torchrun, tmp_path, options, message):
    refused = torchrun(*options, "--out", "run")
    assert len(said(refused)) == 1
    assert message in said(refused)[0]
    assert refused.out == ""
    assert 2 in exit_codes(refused)
    assert exit_codes(refused) <= {2, -signal.SIGTERM}  # torchrun stops the others when it sees the first end
    assert not (tmp_path / "run").exists()


def test_processes_whose_loss_is_no_number_end_as_diverged(cli, torchrun, tmp_path):
    done = torchrun(*LONG, "--lr", "1e30", "--out", "run")
    result = cli.result(tmp_path / "run")
    assert result["status"] == "diverged"
    assert re.fullmatch(r"the loss became (nan|inf) at step 2 \(epoch 1\)", result["error"])
    assert done.out.count(result["error"]) == 1
    assert said(done) == []
    assert 1 in exit_codes(done)


@pytest.mark.parametrize(
    "options",
    [
        ("--compile",),
        ("--match", "dropped=1"),
        ("--set", "attention=se_ste", "--set", "schedule=linear"),
        ("--regularizer", "drop_path", "--precision", "bf16"),
        ("--data", "folder", "--data-root", "pictures", "--set", "resident_mib=0", "--train-fraction", "1"),
    ],
    ids=" ".join,
)
def test_options_that_work_in_one_process_work_in_two(cli, torchrun, tmp_path, options):
    from PIL import Image

    for part in ("train", "test"):
        for number in range(16):
            folder = tmp_path / "pictures" / part / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (16 * number, 100 * (number % 2), 0)).save(folder / f"{number}.png")
    done = torchrun("--train-fraction", "0.1", "--batch-size", "8", "--epochs", "2", *options, "--out", "run")
    assert done.code == 0, done.err
    result = cli.result(tmp_path / "run")
    assert (result["status"], result["epochs"]) == ("done", 2)
    assert result["dropped_pct"] > 0
    if "--match" in options:
        assert result["dropped_pct"] == pytest.approx(1, rel=0.1)


def test_a_message_that_is_let_go_of_late_does_not_abort_a_process_at_its_end(torchrun, tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    done = torchrun("--max-steps", "1", "--out", "run", program=("late.py",))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "done"


def test_nor_one_that_has_failed(torchrun, tmp_path):
    assert FAILS_LATE != LATE
    (tmp_path / "late.py").write_text(FAILS_LATE)
    (tmp_path / "code.py").write_text(CODE)
    failed = torchrun(
        *("--model", "code.py:make_model", "--regularizer", "none", *LONG, "--out", "run"),
        program=("late.py",),
        FAILS="all",
    )
    assert "MemoryError: none is left" in "".join(said(failed))
    assert 1 in exit_codes(failed) <= {1, -signal.SIGTERM}, failed.err  # torchrun ends the other one
