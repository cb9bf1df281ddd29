"""What a report says of a profile: each figure of its tables, with its interval, and why one is missing."""

import csv

import pytest

import tdbench
from tdbench.errors import FolderError, TdbenchError
from tdbench.report.profiles import sections_of_profile
from tdbench.report.reading import read_profile
from tests.report.conftest import FASHION, page_of, profile_of, text_of


@pytest.fixture
def sections(tmp_path):
    return sections_of_profile(read_profile(profile_of(tmp_path / "profile")))


def test_a_step_is_held_against_the_bare_step_and_the_bare_step_against_itself(sections):
    step = sections[0]
    (table,), (picture,) = step.tables, step.pictures
    overhead = table.headings.index("overhead %")
    assert [row[overhead : overhead + 2] for row in table.rows] == [
        ["+0.5", "−0.9 to +3.0"],
        ["−2.8", "−6.2 to +1.4"],
        ["+7.6", "+3.3 to +34.3"],
        ["", ""],
    ]
    assert picture.alt.endswith("targetdrop -2.8 %; dropblock 7.6 %; dropout OOM")
    assert "Grey: the bare step held against itself" in picture.caption
    assert "n = 10 turns" in picture.caption
    assert ">OOM</text>" in picture.svg
    assert "“none” is a second baseline" in step.words[0]


def test_a_layer_is_held_against_the_floor_at_each_shape_and_what_is_unsteady_is_hollow(sections):
    layer = sections[1]
    (picture,) = layer.pictures
    assert [table.caption for table in layer.tables] == [
        "The layer alone at 32×16×32×32, float32, channels_last, freed memory kept.",
        "The layer alone at 32×32×8×8, float32, channels_last, freed memory kept.",
    ]
    rows = {row[0]: dict(zip(layer.tables[0].headings, row, strict=True)) for row in layer.tables[0].rows}
    assert (rows["targetdrop"]["× floor"], rows["targetdrop"]["95 %"]) == ("2.50", "2.40 to 2.60")
    assert rows["dropblock"]["95 %"] == "2.30 to 5.50 unsteady"
    assert rows["dropout"]["total ms"] == "OOM"
    assert "targetdrop at 32×16×32×32 2.5 ×; dropblock at 32×16×32×32 4.8 ×; dropout at 32×16×32×32 OOM" in picture.alt
    assert picture.svg.count("fill: var(--paper)") == 1, "dropblock alone is unsteady"
    assert any(text.startswith("Unsteady: the ratio to the floor of dropblock at 32×16×32×32") for text in layer.words)


def test_how_it_was_measured_is_told(sections):
    how = sections[2]
    assert how.code == ["tdbench profile"]
    assert "It is memory." in how.words
    assert {"model: resnet8", "torch: 2.14"} <= {*how.lines}


def test_a_profile_stands_alone_or_beside_a_sweep_and_its_tables_are_its_own_figures(tmp_path):
    profile = profile_of(tmp_path / "cost")
    text = text_of(page_of(FASHION, profile, tmp_path=tmp_path))
    assert text.index("The verdict") < text.index("A step against the bare step")
    with (
        open(tmp_path / "report_tables" / "profile-cost" / "profile_step.csv") as ours,
        open(profile / "profile_step.csv") as theirs,
    ):
        for mine, measured in zip(csv.DictReader(ours), csv.DictReader(theirs), strict=True):
            assert {name: figure_of(cell) for name, cell in mine.items()} == {
                name: figure_of(cell) for name, cell in measured.items()
            }


def figure_of(cell):
    """Return a cell as a number, where it is one."""
    try:
        return float(cell)
    except ValueError:
        return cell


def test_batch_sizes_that_were_tried_are_a_table_without_a_picture(tmp_path):
    folder = profile_of(tmp_path / "profile")
    (folder / "profile_layer.csv").unlink()
    text = (folder / "profile_step.csv").read_text().splitlines()
    tried = [
        text[0],
        "targetdrop,resnet8,64,fp32,False,x,47.4,1350.4,,21.2,,,1,ok",
        f"{text[4]}".replace("32,", "99,", 1),
    ]
    (folder / "profile_step.csv").write_text("\n".join(tried) + "\n")
    step, how = sections_of_profile(read_profile(folder))
    assert step.pictures == []
    assert [row[1] for row in step.tables[0].rows] == ["64", "99"]
    assert how.title == "How it was measured"


def test_a_profile_that_was_edited_is_told_by_its_row_and_an_empty_one_says_so(tmp_path):
    folder = profile_of(tmp_path / "profile")
    table = folder / "profile_step.csv"
    whole = table.read_text()
    table.write_text(whole.replace("26.9", "fast"))
    with pytest.raises(FolderError, match=r"profile_step\.csv, line 3: step_ms is no number: 'fast'"):
        read_profile(folder)
    table.write_text(whole.replace("overhead_pct", "overhead"))
    with pytest.raises(FolderError, match=r"profile_step\.csv is not the table .* lacks overhead_pct"):
        read_profile(folder)
    table.write_text(whole.splitlines()[0] + "\n")
    (folder / "profile_layer.csv").unlink()
    with pytest.raises(TdbenchError, match="its tables are empty"):
        tdbench.report(folder, out=tmp_path / "report.html")


@pytest.mark.slow
def test_a_profile_as_it_is_measured_is_reported(tmp_path):
    measured = tdbench.profile(regularizer="targetdrop", batch_size=8, seconds=0.05, threads=1, out=tmp_path / "cost")
    text = text_of(page_of(tmp_path / "cost", tmp_path=tmp_path))
    for row in measured.step:
        assert f"{row['step_ms']:,.2f}" in text
    for row in measured.layer:
        assert f"{row['floor_ratio']:,.2f}" in text
    assert measured.machine["limit"] in text
