"""The border to a terminal: names and reasons are drawn as they are."""

import io
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

import tdbench.cli
from tdbench.cli import console
from tdbench.cli.terminal import LiveObserver


@pytest.fixture
def screen():
    return console.PlainConsole(
        file=io.StringIO(),
        force_terminal=True,
        width=80,
        markup=False,
        emoji=False,
        highlight=False,
        color_system="standard",
    )


HOSTILE = "[/b] [red]:smile: \x1b[2J\x1b]0;title\x07"


def test_what_is_drawn_is_taken_as_it_is(screen):
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    screen.print(table)
    screen.print(HOSTILE)
    drawn = screen.file.getvalue()
    assert drawn.count("[/b]") == 5
    assert ":smile:" in drawn
    assert "\x1b[2J" not in drawn
    assert "\x1b]0" not in drawn
    assert "\x1b[31m" in drawn  # colours of our own


def test_the_progress_of_a_run_shows_names_as_they_are(screen):
    observer = LiveObserver(lambda: None, screen)
    observer.started({"model": HOSTILE}, 3, 10)
    observer._bar.update(observer._task, epoch=HOSTILE, figures=HOSTILE)
    observer._bar.stop()
    drawn = screen.file.getvalue()
    assert "[/b]" in drawn
    assert "\x1b]0" not in drawn


def test_every_command_draws_on_this_console():
    for path in Path(tdbench.cli.__file__).parent.glob("*.py"):
        if path.name != "console.py":
            assert " Console(" not in path.read_text(), path.name
