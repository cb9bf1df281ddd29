"""The report: what it says is what the tables hold, all text is escaped, and a browser shows it without a request."""

import csv
import html
from html.parser import HTMLParser

import pytest

import tdbench
from tdbench.errors import ConfigError, FolderError, TdbenchError
from tdbench.report.tables import Table, sort_key
from tests.report.conftest import FASHION, RESULTS, copied, page_of, text_of

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


def test_a_figure_that_was_edited_by_hand_is_told(tmp_path):
    sweep = copied(FASHION, tmp_path, summary_csv=lambda text: text.replace("1.67777777", "1.07777777"))
    assert "says delta_vs_baseline 1.07" in text_of(page_of(sweep, tmp_path=tmp_path))
    assert "says delta_vs_baseline" not in text_of(page_of(FASHION, tmp_path=tmp_path))


def test_where_the_times_of_runs_overlap_nothing_is_called_faster(tmp_path):
    def unsteady(text):
        header, *rows = csv.reader(text.splitlines())
        for number, row in enumerate(rows):
            row[header.index("train_img_per_s")] = str(100 + 50 * (number % 3))
        return "\n".join(map(",".join, [header, *rows]))

    page = text_of(page_of(copied(FASHION, tmp_path, trials_csv=unsteady), tmp_path=tmp_path))
    assert "The Pareto front" not in page
    assert "nothing is said of what is faster" in page


def test_several_sweeps_have_a_part_each_and_are_not_pooled(tmp_path):
    text = page_of(FASHION, RESULTS / "block_size_fashion_mnist", tmp_path=tmp_path)
    assert text.count('<section class="part"') == 3, "two sweeps, and how to read them"
    assert len(list((tmp_path / "report_tables").iterdir())) == 2


def test_what_a_table_says_is_shown_as_text(tmp_path):
    nasty = "<script>alert(1)</script>"
    sweep = copied(FASHION, tmp_path, sweep_yaml=lambda text: text.replace("TargetDrop's drop ratio γ", nasty))
    page = page_of(sweep, tmp_path=tmp_path)
    assert nasty not in page
    assert html.escape(nasty) in page


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="needs the folder"):
        tdbench.report()


def test_a_sweep_in_which_nothing_is_finished_says_so(tmp_path):
    waiting = copied(FASHION, tmp_path, trials_csv=lambda text: text.replace(",done,", ",waiting,"))
    with pytest.raises(TdbenchError, match="no trial has finished") as told:
        page_of(waiting, tmp_path=tmp_path)
    assert told.value.exit_code == 1
    assert "sweep: no trial has finished" in text_of(page_of(FASHION, waiting, tmp_path=tmp_path))
    for name in ("summary.csv", "trials.csv"):  # as where it has just begun
        (waiting / name).unlink()
    with pytest.raises(TdbenchError, match="no trial has finished"):
        page_of(waiting, tmp_path=tmp_path / "new")


def test_a_page_of_somebody_else_is_left_alone(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(FolderError, match="something else than a report"):
        tdbench.report(FASHION, out=page)
    assert page.read_text() == "<html>mine</html>"
    page.unlink()
    tdbench.report(FASHION, out=page)
    tdbench.report(FASHION, out=page)
    page.unlink()
    with pytest.raises(FolderError, match="report_tables, where the tables go, holds something already"):
        tdbench.report(FASHION, out=page)
    for folder in (tmp_path, "", tmp_path / "report_tables"):
        with pytest.raises(FolderError, match="is a folder; name a file"):
            tdbench.report(FASHION, out=folder)


def test_a_run_is_reported_with_its_curves(tmp_path):
    tiny = {"train_fraction": 0.1, "epochs": 3, "batch_size": 32, "threads": 1}
    tdbench.train(out=tmp_path / "run", **tiny)
    page = page_of(tmp_path / "run", tmp_path=tmp_path)
    assert "One run, n = 1: it has no interval." in page
    assert "training error % over the epochs" in page
    assert text_of(page).count("One run.") == 2, "of training and test images, and no mean"


def test_cells_are_sorted_by_their_first_number():
    assert [sort_key(cell) for cell in ("15.83 ± 0.59", "−0.53", "+1.2 to +3", "<0.001", "12,345", "none", "")] == [
        *("15.83", "-0.53", "+1.2", "0.001", "12345", "none", "")
    ]


def test_columns_of_text_are_left_and_those_of_numbers_right():
    table = Table("t", "", ["value", "n", "verdict"], [["0.05", "—", "undecided at 4 seeds"], ["0.1", "3", "—"]])
    assert table.text_columns() == [True, False, True]
    assert r"\begin{tabular}{lrl}" in table.latex()


def test_a_table_that_is_wider_than_the_page_is_scaled_to_it():
    text = Table("t", "", ["a", "b"], [["1", "2"]]).latex()
    assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%" in text
    assert text.count("{") == text.count("}")


def test_latex_shows_what_it_would_obey():
    table = Table("t", "50 % of a_b & c", ["a_b", "x"], [["{γ}", "−1 ± 2"]])
    assert r"50 \% of a\_b \& c" in table.latex()
    assert r"\{$\gamma$\} & $-$1 $\pm$ 2 \\" in table.latex()
