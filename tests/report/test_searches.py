"""What a report says of a search: its candidates over all knobs, and what it promised beside what was kept."""

import pytest

import tdbench
from tdbench.errors import FolderError, TdbenchError
from tdbench.report.parallel import axis_of
from tdbench.report.searches import sections_of_search, view_of
from tests.report.conftest import page_of, search_of, text_of


@pytest.fixture
def sections(tmp_path):
    return {one.title: one for one in sections_of_search(search_of(tmp_path / "search"))}


def test_the_best_candidate_comes_first_and_each_is_a_line_over_all_knobs(sections):
    found = sections["The candidates"]
    assert "4 of 5 candidates have a result, n = 2 runs each" in found.words[0]
    assert [row[0] for row in found.tables[0].rows] == [f"targetdrop {name}" for name in ("2", "default", "4", "1")]
    assert found.tables[0].rows[0] == ["targetdrop 2", "0.289", "3", "2", "12.50", "−4.00"]
    lines, over_ratio, over_size = found.pictures
    assert "4 candidates of targetdrop over drop_ratio, block_size and their difference" in lines.alt
    assert "the best, 2, has drop_ratio 0.289, block_size 3 and −4.00 points" in lines.alt
    assert all(f">{word}</text>" in lines.svg for word in ("drop_ratio", "block_size", "difference (points)"))
    assert ("over drop_ratio" in over_ratio.alt, "over block_size" in over_size.alt) == (True, True)


def test_an_axis_is_of_numbers_of_their_logarithms_or_of_names():
    even = axis_of("x", ["1", "2", "5"])
    assert even.places == {"1": 0.0, "2": 0.25, "5": 1.0}
    wide = axis_of("lr", ["0.001", "0.01", "0.1"])
    assert list(wide.places.values()) == pytest.approx([0.0, 0.5, 1.0])
    assert list(wide.ticks) == ["0.001", "0.01", "0.1"]
    named = axis_of("sites", ["stage1", "all", "stage3"])
    assert named.places == {"all": 0.0, "stage1": 0.5, "stage3": 1.0}
    many = axis_of("x", [str(-place) for place in range(9)])
    assert list(many.ticks.items()) == [("−8", 0.0), ("−6", 0.25), ("−4", 0.5), ("−2", 0.75), ("0", 1.0)]
    assert axis_of("x", ["7"]).places == {"7": 0.0}


def test_what_was_promised_stands_beside_what_was_kept_with_both_n(sections):
    found = sections["Promised and kept"]
    (table,), (picture,) = found.tables, found.pictures
    assert table.rows == [
        ["default", "−1.20", "−32.50 to +30.10", "2", "+1.04", "−2.20 to +4.30", "4", "undecided at 4 seeds"],
        ["candidate 2", "−4.00", "—", "2", "−1.50", "−2.50 to −0.50", "4", "helps"],
        ["candidate 4", "+0.90", "−3.10 to +4.90", "2", "—", "—", "0", "not confirmed"],
    ]
    assert "candidate 2 promised −4.00, kept −1.50" in picture.alt
    assert ">promised on held-out images, n = 2</text>" in picture.svg
    assert ">kept on test images, n = 0 to 4</text>" in picture.svg
    assert ">not confirmed</text>" in picture.svg
    assert picture.svg.count("fill: var(--paper)") == 4, "one of the confirmed is decided, and no promise is"


def test_a_promise_of_two_runs_does_not_hide_what_was_kept(sections):
    from tdbench.report.charts import Mark

    marks = [Mark("a", "promised", -1.0, (-80.0, 80.0)), Mark("a", "kept", 1.0, (-2.0, 4.0))]
    assert view_of(marks) == (-5.0, 7.0)
    assert view_of([]) is None


def test_how_it_was_searched_is_told(sections, tmp_path):
    how = sections["How it was searched"]
    assert how.code == [f"tdbench tune {tmp_path}/search/tune.yaml --out {tmp_path}/search"]
    assert {"base.data.name: digits", "param.drop_ratio: 0.02..0.6", "trials: 5"} <= {*how.lines}


def test_importance_is_left_out_where_there_is_none(tmp_path):
    search = search_of(tmp_path / "search")
    titles = [one.title for one in sections_of_search(search)]
    (search / "importance.csv").write_text("regularizer,param,importance\n")
    without = [one.title for one in sections_of_search(search)]
    assert [one for one in titles if one not in without] == ["Importance"]


def test_a_search_whose_tables_were_edited_or_in_which_nothing_is_finished_says_so(tmp_path):
    search = search_of(tmp_path / "search")
    table = search / "candidates.csv"
    whole = table.read_text()
    table.write_text(whole.replace(",-4.0,", ",less,"))
    with pytest.raises(FolderError, match=r"candidates\.csv, line 5: delta_vs_baseline is no number: 'less'"):
        sections_of_search(search)
    table.write_text("\n".join(whole.splitlines()[:2]) + "\n")
    with pytest.raises(TdbenchError, match="no candidate has a result"):
        tdbench.report(search, out=tmp_path / "report.html")
    table.unlink()
    with pytest.raises(FolderError, match=r"candidates\.csv is missing"):
        sections_of_search(search)


def test_a_search_without_a_confirmation_is_a_part_alone(tmp_path):
    text = text_of(page_of(search_of(tmp_path / "search"), tmp_path=tmp_path))
    assert "Search search" in text
    assert "The verdict" not in text
