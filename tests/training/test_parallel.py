"""Two processes train one network: what they exchange, what they share and keep apart, and how they end together."""

import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

from tdbench.cli import main
from tdbench.store.folders import RunFolder
from tdbench.training.parallel import ALONE, Ballot, Processes, joined
from tests.training.one_of_several import learn_as_one_of_several

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked")

TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# No batch normalisation, whose statistics are each process's own: two processes do what one does, to rounding.
PLAIN = """
from torch import nn

def make_model(num_classes, in_channels):
    first, second = nn.Conv2d(in_channels, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
    return nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, num_classes)
    )
"""
PLAIN_RUN = ("train", "--model", "plain.py:make_model", "--regularizer", "none", "--precision", "fp32")
PLAIN_RUN += ("--train-fraction", "0.1", "--batch-size", "32", "--epochs", "2")


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*TORCHRUN, "TDBENCH_DEBUG"):
        monkeypatch.delenv(name, raising=False)


def in_two_processes(code: str) -> tuple[list[int], list[str]]:
    """Run code in two processes with torchrun's variables; return their exit codes and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tdbench.sweep.worker"])  # the one that the suite's sweeps use
    processes = []
    for rank in ("0", "1"):
        values = dict(zip(TORCHRUN, ("2", rank, rank, "127.0.0.1", str(port)), strict=True))
        lines = (
            "import os, sys, torch",
            f"os.environ.update({values | {'CUDA_VISIBLE_DEVICES': ''}})",
            f"sys.stdout = sys.stderr = open('printed{rank}.txt', 'w')",
            "torch.set_num_threads(1)",
            code,
        )
        processes.append(context.Process(target=exec, args=("\n".join(lines), {})))
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    return [process.exitcode for process in processes], [Path(f"printed{rank}.txt").read_text() for rank in (0, 1)]


def command(*arguments: str) -> str:
    return f"from tdbench.cli import main\nsys.exit(main({list(arguments)}))"


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / "checkpoint.pt", weights_only=True)["state"]["model"]


def test_a_process_without_torchrun_is_alone(monkeypatch):
    for world_size in (None, "", "1"):
        if world_size is not None:
            monkeypatch.setenv("WORLD_SIZE", world_size)
        with joined() as processes:
            assert processes is ALONE
    assert (ALONE.first(lambda: 3), ALONE.together(lambda: 4)) == (3, 4)
    assert (ALONE.any(True, False), ALONE.gather(5)) == ((True, False), [5])


def test_a_world_size_without_the_rest_of_torchrun_is_refused_with_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train"]) == 2
    message = capsys.readouterr().err
    assert "WORLD_SIZE is 2, and RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set" in message
    assert "torchrun" in message


def test_a_sweep_that_torchrun_starts_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["ablate", "--param", "k=3", "--out", "sweep"]) == 2
    assert "start it without torchrun" in capsys.readouterr().err
    assert not Path("sweep").exists()


class Two(Processes):
    """One of two processes, of which the other is always of its opinion."""

    count = 2
    num_asked = 0

    def any(self, *flags):
        self.num_asked += 1
        return flags


@pytest.mark.parametrize(("step_s", "fewest", "most"), [(0.001, 10, 40), (1.0, 499, 500)])
def test_whether_to_stop_is_asked_every_few_steps_and_after_each_long_one(monkeypatch, step_s, fewest, most):
    now = iter(step_s * step for step in range(10**6))
    monkeypatch.setattr("tdbench.training.parallel.time.perf_counter", lambda: next(now))
    processes = Two()
    ballot = Ballot(processes)
    waited, longest = 0, 0
    for _ in range(500):
        waited = 0 if ballot.any(True) == (True,) else waited + 1
        longest = max(longest, waited)
    assert fewest <= processes.num_asked <= most
    assert longest < 64


def test_a_single_process_is_asked_before_every_step():
    ballot = Ballot(ALONE)
    assert [ballot.any(number == 3, True) for number in range(100)] == [(number == 3, True) for number in range(100)]


EXCHANGE = """
from tdbench.errors import ConfigError
from tdbench.training.parallel import joined

def fail():
    raise ConfigError(f"by process {rank}")

with joined() as processes:
    rank = processes.rank
    assert processes.first(lambda: rank + 10) == 10
    assert processes.together(lambda: rank + 10) == rank + 10
    assert processes.any(rank == 1, False, rank == 0) == (True, False, True)
    assert processes.gather(rank) == [0, 1]
    for do in (lambda: processes.first(fail), lambda: processes.together(lambda: rank and fail())):
        try:
            do()
        except ConfigError as error:
            print(error)
    for number in processes.gather(rank):  # each fails in its turn; the first alone speaks
        if number == rank:
            processes.first_failure(ConfigError(f"by process {rank}"))
        processes.gather(None)
    assert processes.first_failure(ConfigError("too late")) == (0, 2, "by process 0")
"""


def test_processes_exchange_values_and_fail_together():
    assert in_two_processes(EXCHANGE) == ([0, 0], ["by process 0\nby process 1\n"] * 2)


def test_two_processes_train_to_rounding_what_one_does_and_the_first_alone_prints_and_writes(capsys):
    Path("plain.py").write_text(PLAIN)
    assert main([*PLAIN_RUN, "--out", "one"]) == 0
    codes, printed = in_two_processes(command(*PLAIN_RUN, "--out", "two"))
    assert (codes, printed[1]) == ([0, 0], "")
    assert printed[0].count("test error, last epoch") == 1
    assert "2, which share every batch of 32" in printed[0]
    one, two = (RunFolder(Path(name)).read_result() for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.test_error_pct == two.test_error_pct
    assert one.train_error_pct == two.train_error_pct
    # Eight steps, in each of which a gradient is summed in another order: 8 · 2⁻²⁴ · √(terms ≈ 10⁴) ≈ 5e-5.
    for name, weight in weights("one").items():
        torch.testing.assert_close(weights("two")[name], weight, rtol=5e-5, atol=5e-5)
    assert RunFolder(Path("two")).read_environment()["processes"] == 2
    assert sorted(path.name for path in Path().iterdir() if path.is_dir() and path.name != "__pycache__") == [
        "one",
        "two",
    ]


ALIKE = """
from tdbench import load_config
from tdbench.training.parallel import joined
from tdbench.training.run import Run

def check_alike(run):
    layers = run.insertion.state_dict().items()
    state = dict(run.model.state_dict()) | {f"{site}.{name}": x for site, layer in layers for name, x in layer.items()}
    assert "stage1.fc1" in state
    first, second = run.processes.gather(state)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(second[name], value), name

def check(run):
    check_alike(run)
    run.distribute()
    assert not run.network.broadcast_buffers  # evaluation unifies them
    run.begin_steps()
    for number, (images, labels) in enumerate(run.batches.epoch(1, 0, 8)):
        assert len(images) == 8
        run.train_step(images, labels, number)
    row = run.end_epoch()
    check_alike(run)
    figures = ("train_loss", "train_error_pct", "test_loss", "test_error_pct", "dropped_pct")
    row, other = run.processes.gather({name: getattr(row, name) for name in figures})
    assert row == other
    assert row["dropped_pct"] > 0
    assert abs(row["train_error_pct"] * 1.28 % 1) < 1e-9  # a share of all 128 images
    random, other = run.processes.gather(torch.get_rng_state())
    assert not torch.equal(random, other)

with joined() as processes:
    for attention in ("se", "se_ste"):  # buffers, and weights that the schedule leaves out at first
        flags = {"train_fraction": 0.1, "batch_size": 16, "attention": attention, "region": "random"}
        check(Run(load_config(overrides=flags | {"schedule": "linear"}), processes))
"""


@pytest.mark.slow
def test_two_processes_keep_one_network_and_draw_masks_of_their_own():
    assert in_two_processes(ALIKE)[0] == [0, 0], [Path(f"printed{rank}.txt").read_text() for rank in (0, 1)]


def test_a_batch_that_cannot_be_shared_is_refused_once_and_nothing_is_written():
    codes, printed = in_two_processes(command("train", "--batch-size", "33", "--out", "run"))
    assert codes == [2, 2]
    assert "".join(printed).count("tdbench: ") == 1
    assert "training.batch_size must be a multiple of 2, the number of processes" in "".join(printed)
    assert not os.path.exists("run")


@pytest.mark.slow
def test_one_process_that_has_joined_learns_what_a_plain_one_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, joined = learn_as_one_of_several("cpu")
    assert Path("network").read_text().startswith("DistributedDataParallel by cpu:gloo")
    assert plain == joined
