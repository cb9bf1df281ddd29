"""The report: what it says is what the tables hold, all text is escaped, and a browser shows it without a request."""

import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tdbench
from tdbench.errors import ConfigError, FolderError
from tdbench.report.charts import Bar, forest
from tdbench.report.reading import read_sources
from tdbench.report.tables import Table, sort_key

RESULTS = Path(__file__).parents[2] / "ablations" / "results"
FASHION = RESULTS / "drop_ratio_fashion_mnist"


def page_of(*folders, tmp_path):
    return tdbench.report(*folders, out=tmp_path / "report.html").read_text(encoding="utf-8")


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


VOID = {"meta", "br", "img", "input", "link", "hr"}


class Balanced(HTMLParser):
    """Fails unless each tag is closed; counts what would be asked of the network."""

    def __init__(self):
        super().__init__()
        self.open, self.requests, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.requests += [told[name] for name in ("src", "href", "xlink:href", "data") if name in told]
        self.ids += [told["id"]] if "id" in told else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    "folder",
    [pytest.param(one, marks=pytest.mark.slow, id=one.name) for one in sorted(RESULTS.iterdir()) if one != FASHION]
    + [pytest.param(FASHION, id=FASHION.name)],
)
def test_each_committed_result_is_a_whole_page_that_asks_nothing_of_the_network(folder, tmp_path):
    page = page_of(folder, tmp_path=tmp_path)
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(one.startswith(("#", "data:image/png;base64,")) for one in parser.requests)
    assert len(set(parser.ids)) == len(parser.ids)
    assert {one[1:] for one in parser.requests if one[0] == "#"} <= set(parser.ids)
    assert "url(http" not in page
    assert "</html>" in page


def test_the_verdict_comes_first_with_n_alpha_the_family_and_the_interval(tmp_path):
    text = text_of(page_of(FASHION, tmp_path=tmp_path))
    assert (
        text.index("The verdict") < text.index("All figures") < text.index("Was it on?") < text.index("How it was run")
    )
    assert (
        "6 values compared with none by test_error_pct, seed by seed, n = 9 seeds, α = 0.05 for the whole family"
        in text
    )
    assert "5 not decided yet, 1 hurts" in text
    assert "0.5 hurts: +1.68 points (95 % interval +0.61 to +2.75, n = 9, p = 0.028)" in text


def test_the_tables_are_the_sweeps_own_figures(tmp_path):
    page_of(FASHION, tmp_path=tmp_path)
    tables = tmp_path / "report_tables"
    with open(tables / "summary.csv") as ours, open(FASHION / "summary.csv") as theirs:
        assert list(csv.DictReader(ours)) == list(csv.DictReader(theirs))
    latex = (tables / "summary.tex").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert "drop\\_ratio" in latex
    assert "| 0.5" in (tables / "summary.md").read_text()


def test_several_sweeps_have_a_part_each_and_are_not_pooled(tmp_path):
    text = page_of(FASHION, RESULTS / "block_size_fashion_mnist", tmp_path=tmp_path)
    assert text.count('<section class="part"') == 3, "two sweeps, and how to read them"
    assert len(list((tmp_path / "report_tables").iterdir())) == 2


def copied(folder, tmp_path, **changes):
    there = tmp_path / "sweep"
    shutil.copytree(folder, there)
    for name, change in changes.items():
        path = there / name.replace("_csv", ".csv").replace("_yaml", ".yaml")
        path.write_text(change(path.read_text()))
    return there


def test_what_a_table_says_is_shown_as_text(tmp_path):
    nasty = "<script>alert(1)</script>"
    sweep = copied(FASHION, tmp_path, sweep_yaml=lambda text: text.replace("TargetDrop's drop ratio γ", nasty))
    page = page_of(sweep, tmp_path=tmp_path)
    assert nasty not in page
    assert html.escape(nasty) in page


def test_a_table_that_was_cut_short_or_edited_is_told_by_its_row(tmp_path):
    cut = copied(FASHION, tmp_path, trials_csv=lambda text: text[: len(text) // 2])
    with pytest.raises(FolderError, match=r"trials\.csv, line \d+: it has more or fewer cells"):
        page_of(cut, tmp_path=tmp_path)
    shutil.rmtree(cut)
    edited = copied(FASHION, tmp_path, summary_csv=lambda text: text.replace("0.05,9,", "0.05,nine,"))
    with pytest.raises(FolderError, match=r"summary\.csv, line 3: n is no number: 'nine'"):
        page_of(edited, tmp_path=tmp_path)


def test_what_is_no_folder_of_ours_is_refused_and_what_is_unfinished_says_so(tmp_path):
    with pytest.raises(FolderError, match="holds no sweep, no search and no run"):
        tdbench.report(tmp_path, out=tmp_path / "report.html")
    with pytest.raises(ConfigError, match="needs the folder"):
        tdbench.report(out=tmp_path / "report.html")
    waiting = copied(FASHION, tmp_path, trials_csv=lambda text: text.replace(",done,", ",waiting,"))
    with pytest.raises(FolderError, match="no trial has finished"):
        tdbench.report(waiting, out=tmp_path / "report.html")
    both = page_of(FASHION, waiting, tmp_path=tmp_path)
    assert "sweep: no trial has finished" in text_of(both)


def test_a_page_of_somebody_else_is_left_alone(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(FolderError, match="something else than a report"):
        tdbench.report(FASHION, out=page)
    assert page.read_text() == "<html>mine</html>"
    page.unlink()
    tdbench.report(FASHION, out=page)
    tdbench.report(FASHION, out=page)


def test_results_of_another_release_are_shown_and_told(tmp_path):
    text = text_of(page_of(RESULTS / "block_size", tmp_path=tmp_path))
    assert "was written by another release" in text


def test_a_run_is_reported_with_its_curves(tmp_path):
    tiny = {"train_fraction": 0.1, "epochs": 3, "batch_size": 32, "threads": 1}
    tdbench.train(out=tmp_path / "run", **tiny)
    page = page_of(tmp_path / "run", tmp_path=tmp_path)
    assert "One run, n = 1: it has no interval." in page
    assert "training error % over the epochs" in page


def test_cells_are_sorted_by_their_first_number():
    assert [sort_key(cell) for cell in ("15.83 ± 0.59", "−0.53", "+1.2 to +3", "<0.001", "12,345", "none", "")] == [
        *("15.83", "-0.53", "+1.2", "0.001", "12345", "none", "")
    ]


def test_latex_shows_what_it_would_obey():
    table = Table("t", "50 % of a_b & c", ["a_b", "x"], [["{γ}", "−1 ± 2"]])
    assert r"50 \% of a\_b \& c" in table.latex()
    assert r"\{$\gamma$\} & $-$1 $\pm$ 2 \\" in table.latex()


def test_a_picture_has_words_for_those_who_do_not_see_it_and_takes_the_pages_colours():
    picture = forest([Bar('a "b"', -1.0, (-2.0, 0.0), (-3.0, 1.0), [-1.5, -0.5], True)], "points", "n = 2 seeds")
    assert 'role="img" aria-label="Paired differences' in picture.svg
    assert "&quot;b&quot; -1.00" in picture.svg
    assert "currentColor" in picture.svg
    assert "#010203" not in picture.svg


def test_kinds_of_folders_are_told_apart(tmp_path):
    sources = read_sources([FASHION])
    assert (len(sources.sweeps), len(sources.runs), len(sources.searches)) == (1, 0, 0)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = """
<script>
const told = {errors: window.errors, wide: document.documentElement.scrollWidth > window.innerWidth,
  requests: performance.getEntriesByType("resource").length};
const table = document.querySelector("table.sortable"), button = table.tHead.rows[0].cells[2].querySelector("button");
const column = () => [...table.tBodies[0].rows].map(row => Number(row.cells[2].dataset.key));
button.click(); told.rising = column(); button.click(); told.falling = column();
document.title = JSON.stringify(told);
document.body.append(Object.assign(document.createElement("pre"), {id: "told", textContent: JSON.stringify(told)}));
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [375, 768, 1400])
def test_a_browser_shows_it_without_errors_requests_or_overflow_and_sorts(width, tmp_path):
    page = page_of(FASHION, tmp_path=tmp_path)
    watched = page.replace(
        "<script>", "<script>window.errors = []; onerror = (e) => errors.push(String(e));</script><script>", 1
    )
    (tmp_path / "probe.html").write_text(watched.replace("</body>", PROBE), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    shown = subprocess.run([*command, f"file://{tmp_path}/probe.html"], capture_output=True, text=True, timeout=120)
    told = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', shown.stdout)[1]))
    assert told["errors"] == []
    assert told["requests"] == 0
    assert not told["wide"]
    assert told["rising"] == sorted(told["rising"])
    assert told["falling"] == sorted(told["falling"], reverse=True)
