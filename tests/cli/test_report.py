"""`tdbench report`: it says where the page is, and what is wrong in one message, with its exit code."""

import shutil
from pathlib import Path

from tests.report.conftest import FASHION, profile_of


def test_a_page_is_written_of_several_folders_and_its_place_is_told(cli):
    done = cli("report", FASHION, profile_of(Path("cost")))
    assert (done.code, done.err) == (0, "")
    assert done.out == "report.html, and its tables in report_tables\n"
    page = Path("report.html").read_text(encoding="utf-8")
    assert "A step against the bare step" in page
    again = cli("report", "cost", "--out", "report.html", "--quiet")
    assert (again.code, again.out) == (0, "report.html\n"), "a page of ours is replaced"


def test_what_is_wrong_is_one_message_with_its_exit_code(cli):
    waiting = shutil.copytree(FASHION, "waiting")
    trials = Path(waiting) / "trials.csv"
    trials.write_text(trials.read_text().replace(",done,", ",waiting,"))
    edited = shutil.copytree(FASHION, "edited")
    table = Path(edited) / "summary.csv"
    table.write_text(table.read_text().replace(",hurts,", ",hurts,x"))
    Path("mine.html").write_text("<p>mine</p>")
    for code, arguments, words in (
        (1, ["waiting"], "waiting: no trial has finished"),
        (2, ["edited"], "summary.csv, line 8: dropped_pct is no number: 'x"),
        (2, ["waitin"], "there is no folder waitin; did you mean waiting?"),
        (2, [FASHION, "--out", ""], "is a folder; name a file"),
        (2, [FASHION, "--out", "mine.html"], "something else than a report"),
        (2, [FASHION, "--out", "no/such/report.html"], "cannot write no/such/report.html"),
        (2, [], "DIR"),
    ):
        done = cli("report", *arguments)
        assert (done.code, done.out) == (code, ""), arguments
        assert words in done.err
        assert done.err.startswith("tdbench: ")
        assert done.err.count("\n") == 1
    assert Path("mine.html").read_text() == "<p>mine</p>"
    assert not list(Path().glob("*_tables"))
