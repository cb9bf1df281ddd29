"""What a command does before it imports torch: a sign of life, and what the threads are told on a shared machine."""

import os
import sys
import time
from pathlib import Path

import pytest

from tdbench.cli import starting
from tdbench.cli.starting import Start
from tdbench.cli.terminal import PlainObserver, slowed_line
from tdbench.training.clock import RECENT_STEPS, StepClock


@pytest.fixture
def shared(monkeypatch):
    """Let a test say how many cores others keep busy, on a machine of four, with nothing set and torch not loaded."""
    for name in starting._CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.delitem(sys.modules, "torch")

    def busy(cores):
        monkeypatch.setattr(Start, "others_busy", lambda self: cores)

    yield busy
    os.environ.pop("GOMP_SPINCOUNT", None)


@pytest.mark.parametrize(
    ("cores", "threads", "spins"),
    [
        (0.0, None, True),
        (0.3, None, True),
        (1.0, None, False),
        (2.0, None, False),
        (1.0, 2, True),
        (3.0, 2, False),
        (3.4, 1, True),
    ],
)
def test_threads_spin_briefly_where_others_want_the_cores_that_they_take(shared, cores, threads, spins):
    shared(cores)
    Start().announce("torch", silent=True, threads=threads)
    assert os.environ.get("GOMP_SPINCOUNT") == (None if spins else starting.SPINS)


@pytest.mark.parametrize("name", starting._CHOSEN_BY_USER)
def test_what_the_user_has_set_stays(shared, monkeypatch, name):
    shared(3.0)
    monkeypatch.setenv(name, "7")
    Start().announce("torch", silent=True)
    assert os.environ[name] == "7"
    assert [one for one in starting._CHOSEN_BY_USER if one in os.environ] == [name]


def test_the_load_is_that_of_others(monkeypatch):
    if starting.others_s() is None:
        pytest.skip("the system does not say")
    marks = iter([100.0, 100.75])
    monkeypatch.setattr(starting, "others_s", lambda: next(marks))
    start = Start()
    start._wall_s = time.perf_counter() - 0.5
    assert start.others_busy() == pytest.approx(1.5, rel=0.05)


def test_a_life_sign_comes_once(shared, capsys):
    shared(0.0)
    start = Start()
    start.announce("torch", silent=False)
    start.announce("torch", silent=False)
    assert capsys.readouterr().out == "loading torch ...\n"


def test_the_load_is_that_of_the_cores_that_this_process_may_use(monkeypatch):
    lines = (
        *("cpu 900 9 9 99 9 9 9 9", "cpu0 100 10 20 5000 700 3 4 5 6 7"),
        *("cpu1 800 0 0 9 9 0 0 0 0 0", "cpu10 1 1 1 9 9 1 1 1 1 1", "intr 5 6", "btime 7", ""),
    )
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "\n".join(lines))
    monkeypatch.setattr(os, "sysconf", lambda name: 100, raising=False)
    monkeypatch.setattr(time, "process_time", lambda: 0.25)
    for cores, busy in (({0}, 142), ({1}, 800), ({0, 10}, 148)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: cores, raising=False)
        assert starting.others_s() == pytest.approx(busy / 100 - 0.25)
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "no table\ncpu0 x\n")
    assert starting.others_s() is None


def test_a_system_that_does_not_say_is_taken_for_idle(monkeypatch):
    monkeypatch.setattr(starting, "others_s", lambda: None)
    assert Start().others_busy() == 0


def test_nothing_is_announced_where_torch_is_here_already(capsys):
    assert "torch" in sys.modules
    Start().announce("torch", silent=False)
    assert capsys.readouterr().out == ""


def test_steps_that_became_slow_are_told_with_what_helps(capsys):
    import torch

    clock = StepClock(torch.device("cpu"))
    clock.steps_s = [0.01] * (RECENT_STEPS - 1)
    assert clock.times_slower() == 1
    clock.steps_s += [0.01]
    assert clock.times_slower() == 1
    clock.steps_s += [0.05] * RECENT_STEPS
    assert clock.times_slower() == pytest.approx(5)
    PlainObserver(lambda: None).slowed(5.0)
    assert capsys.readouterr().out == slowed_line(5.0) + "\n"
    assert "5.0 times as long" in slowed_line(5.0)
    assert "--threads 1" in slowed_line(5.0)
