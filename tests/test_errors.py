"""Texts at the border to a terminal."""

import pytest

from tdbench.cli import main
from tdbench.errors import clipped, nearest, plain


def test_a_terminal_obeys_no_text():
    assert plain("a\x1b[31mb\x07\rc\td\x00") == r"a\x1b[31mb\x07\rc\td\x00"
    assert plain("\u202eevil \udcff") == r"\u202eevil \udcff"
    kept = "5\u202f% ± 2, 7×7 — 北京 [b]x[/b]\nsecond line"
    assert plain(kept) == kept


def test_a_long_line_loses_its_middle():
    assert clipped("short\nlines") == "short\nlines"
    line = clipped("a" * 5000 + "z")
    assert (len(line) <= 1000, line[0], line[-1]) == (True, "a", "z")
    assert " ... " in line


@pytest.mark.parametrize("name", ["\x1b]0;title\x07", "\x1b[2J"])
def test_a_message_does_not_reach_the_terminal_as_a_command(name, capsys):
    assert main(["train", "--model", name]) == 2
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "\\x1b" in told


def test_the_first_word_of_a_name_is_answered_with_that_name():
    known = ["match", "ema_decay", "name", "lr", "ema_decay_of_all"]
    assert nearest("ema", known) == nearest("EMA", known) == "; did you mean ema_decay?"
    assert nearest("mach", known) == "; did you mean match?"
    assert nearest("", known) == nearest("xyz", known) == ""
