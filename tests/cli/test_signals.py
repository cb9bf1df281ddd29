"""What stops a command: noted even where Python swallows it, and heeded by the driver for all its processes."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tdbench.cli.signals import stop_signals

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_the_first_signal_is_noted_and_the_second_interrupts(number):
    before = signal.getsignal(number)
    if before == signal.SIG_IGN and number not in (signal.SIGINT, signal.SIGTERM):
        pytest.skip("it is ignored here, as under nohup")
    with stop_signals() as signals:
        signals.be_graceful()
        signal.raise_signal(number)
        assert signals.stop_requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_a_signal_that_python_swallows_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)

    class Swallows:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)  # what it raises here, Python prints and ignores

    with stop_signals() as signals:
        Swallows()
        assert signals.stop_requested()
        with pytest.raises(KeyboardInterrupt):
            signals.be_graceful()


def test_ctrl_c_is_heeded_where_a_shell_ignores_it_for_what_runs_behind():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals() as signals:
            signals.be_graceful()
            signal.raise_signal(signal.SIGINT)
            assert signals.stop_requested()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_a_signal_that_was_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def processes_below(pid: int) -> list[int]:
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        found += [child, *processes_below(child)]
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_every_process_of_a_sweep_saves_its_trials(cli, tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this process was started with nohup, and so ignores the signal, as the sweep would")
    command = (
        "ablate",
        "--param",
        "block_size=3",
        "--data",
        "digits",
        "--seeds",
        "2",
        "--epochs",
        "40",
        "--set",
        "checkpoint_every_s=0",
        "--threads",
        "1",
        "--out",
        "sweep",
    )
    sweep = cli.start(*command)
    cli.wait_for(lambda: any((tmp_path / "sweep" / "trials").glob("*/checkpoint.pt")), sweep)
    for pid in [*processes_below(sweep.pid), sweep.pid]:
        os.kill(pid, number)
    done = cli.finish(sweep)
    assert done.code == 130, done.err
    assert "exit code" not in done.out + done.err
    assert not list((tmp_path / "sweep" / "trials").glob("*/result.json"))
    states = (tmp_path / "sweep" / "trials.csv").read_text()
    assert "killed" not in states
    assert "failed" not in states
