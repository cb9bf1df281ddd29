"""How far a measurement is: a line now and then, the parts of the work in their places."""

import time

import pytest

from tdbench.cli.preparing import preparation_shown
from tdbench.cli.progress import progress
from tdbench.store.progress import part_of, tell


@pytest.fixture
def clock(monkeypatch):
    """Let a test set the time."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_is_printed_every_five_seconds_with_what_is_left(clock, capsys):
    with progress(silent=False) as report:
        for clock[0], share in ((101.0, 0.1), (106.0, 0.25), (107.0, 0.3), (112.0, 0.5)):
            report(share, f"at {share}")
    assert capsys.readouterr().out.splitlines() == [" 25%  at 0.25  0:18 left", " 50%  at 0.5  0:12 left"]


def test_at_the_very_beginning_nothing_is_guessed(clock, capsys):
    with progress(silent=False) as report:
        clock[0] += 10
        report(0.0, "layer")
    assert capsys.readouterr().out == "  0%  layer\n"


def test_silence_is_silent(clock, capsys):
    with progress(silent=True) as report:
        clock[0] += 10
        report(0.5, "layer")
    assert capsys.readouterr().out == ""


def test_a_part_of_the_work_lies_between_its_two_shares_and_bears_its_name():
    told = []
    report = part_of(part_of(lambda *told_now: told.append(told_now), 0.5, 1.0, "step"), 0.0, 0.5, "first")
    for share in (0.0, 0.5, 1.0):
        report(share, "targetdrop")
    assert told == [(0.5, "step: first: targetdrop"), (0.625, told[0][1]), (0.75, told[0][1])]


def test_a_preparation_is_shown_from_its_first_word_to_its_end_and_then_the_next(clock, capsys):
    with preparation_shown(silent=False):
        for _ in range(2):
            clock[0] += 10  # before it is heard of, which does not count
            for share in (0.0, 0.25, 1.0):
                tell(share, "decoding")
                clock[0] += 5
    tell(0.5, "nobody listens")
    assert capsys.readouterr().out.splitlines() == [" 25%  decoding  0:15 left", "100%  decoding  0:00 left"] * 2


def test_a_preparation_is_silent_where_silence_is_asked(clock, capsys):
    with preparation_shown(silent=True):
        tell(0.0, "decoding")
        clock[0] += 10
        tell(0.5, "decoding")
    assert capsys.readouterr().out == ""
