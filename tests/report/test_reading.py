"""What a report is made from: folders are told apart, and what is wrong with one is told with file and line."""

import csv
import re
import shutil
import statistics

import pytest

import tdbench
from tdbench.errors import FolderError
from tdbench.report import sections
from tdbench.report.reading import read_sources
from tests.report.conftest import FASHION, RESULTS, copied, run_of


def test_kinds_of_folders_are_told_apart(tmp_path):
    sources = read_sources([FASHION, run_of(tmp_path / "run", "0.3.0")])
    assert (len(sources.sweeps), len(sources.runs), len(sources.searches), len(sources.profiles)) == (1, 1, 0, 0)


@pytest.mark.parametrize("folder", sorted(RESULTS.iterdir()), ids=lambda folder: folder.name)
def test_the_seeds_of_each_value_are_those_that_its_difference_is_the_mean_of(folder):
    (sweep,) = read_sources([folder]).sweeps
    assert sweep.compared
    for row in sweep.compared:
        pairs = sweep.pairs(row)
        assert len(pairs) == int(row["n"])
        assert statistics.fmean(pairs.values()) == pytest.approx(float(row["delta_vs_baseline"]))
    assert len({sweep.label(row) for row in sweep.summary}) == len(sweep.summary)


def test_a_baseline_of_the_same_value_is_told_apart():
    (sweep,) = read_sources([RESULTS / "train_fraction_fashion_mnist"]).sweeps
    labels = [sweep.label(row) for row in sweep.summary]
    assert labels[:5] == ["0.01 (baseline)", "0.025 (baseline)", "0.05 (baseline)", "0.1 (baseline)", "0.01"]
    assert all(not any(sweep.by_seed(row, "dropped_pct").values()) for row in sweep.summary[:4])
    assert all(all(sweep.by_seed(row, "dropped_pct").values()) for row in sweep.summary[4:])
    verdict = sections.verdict(sweep)
    assert "4 values compared with their own baselines by test_error_pct" in verdict.words[0]


def test_a_method_that_dropped_nothing_was_not_on_and_none_is_no_method(tmp_path):
    def without_drops(text):
        header, *rows = csv.reader(text.splitlines())
        place = header.index("dropped_pct")
        for row in rows:
            row[place] = "0.0" if row[header.index("drop_ratio")] == "0.05" else row[place]
        return "\n".join(map(",".join, [header, *rows])) + "\n"

    (sweep,) = read_sources([copied(FASHION, tmp_path, trials_csv=without_drops)]).sweeps
    assert "Nothing was dropped by 0.05: it was not on." in sections.was_it_on(sweep).words
    (knock_outs,) = read_sources([RESULTS / "knock_outs_fashion_mnist"]).sweeps
    assert not any("was not on" in words for words in sections.was_it_on(knock_outs).words), (
        "`none` is compared with the paper's method there"
    )


DAMAGE = {
    "cut short": (
        "trials.csv",
        lambda text: text[: len(text) // 2],
        r"trials\.csv, line \d+: it has more or fewer cells",
    ),
    "a word for n": (
        "summary.csv",
        lambda text: text.replace("0.05,9,", "0.05,nine,"),
        r"line 3: n is no whole number",
    ),
    "a word for a figure": (
        "summary.csv",
        lambda text: text.replace("0.05,9,15.7", "0.05,9,x15.7"),
        r"summary\.csv, line 3: test_error_pct_mean is no number: 'x15.7",
    ),
    "half a seed": ("trials.csv", lambda text: text.replace(",done,0,", ",done,0.5,", 1), r"line 2: seed is no whole"),
    "no status": (
        "trials.csv",
        lambda text: text.replace(",done,", ",dome,", 1),
        r"line 2: status must be one of .*, got 'dome'; did you mean done\?",
    ),
    "a column less": ("summary.csv", lambda text: text.replace("p_holm", "p"), "it lacks p_holm"),
    "another key": ("summary.csv", lambda text: text.replace("drop_ratio", "ratio"), r"trials\.csv .* lacks ratio"),
    "nothing": ("summary.csv", lambda text: "", "it lacks n, test_error_pct_mean"),
    "semicolons": ("summary.csv", lambda text: text.replace(",", ";"), "it lacks n, test_error_pct_mean"),
    "no YAML": ("sweep.yaml", lambda text: "[", r"sweep\.yaml is damaged"),
}


@pytest.mark.parametrize(("name", "change", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_table_that_was_cut_short_or_edited_is_told_by_its_row(name, change, words, tmp_path):
    sweep = copied(FASHION, tmp_path, **{name.replace(".", "_"): change})
    with pytest.raises(FolderError, match=words):
        read_sources([sweep])


def test_what_a_spreadsheet_adds_to_a_table_is_no_fault(tmp_path):
    saved = copied(FASHION, tmp_path, summary_csv=lambda text: "\ufeff" + text.replace("\n", "\r\n"))
    (sweep,) = read_sources([saved]).sweeps
    assert sweep.keys == ["drop_ratio"]
    assert [row["verdict"] for row in sweep.summary if row["drop_ratio"] == "0.5"] == ["hurts"]


def test_what_is_no_folder_of_ours_is_refused_with_what_may_be_meant(tmp_path):
    (tmp_path / "file").write_text("")
    shutil.copytree(FASHION, tmp_path / "sweep")
    for path, words in {
        tmp_path: rf"holds no run, no sweep.*; its folders do, such as {tmp_path}/sweep",
        tmp_path / "swep": r"there is no folder .*; did you mean sweep\?",
        tmp_path / "file": "is a file; name the folder",
    }.items():
        with pytest.raises(FolderError, match=words):
            read_sources([path])


def test_results_of_another_release_are_shown_and_told(tmp_path):
    (note,) = read_sources([RESULTS / "block_size"]).notes
    assert "block_size is of an earlier release of tdbench: it lacks" in note
    later = copied(
        FASHION, tmp_path, summary_csv=lambda text: re.sub("(?m)(.)$", r"\1,1", text).replace(",1", ",fun", 1)
    )
    assert any(
        "is of a later release of tdbench, or was edited: fun is not shown" in one
        for one in read_sources([later]).notes
    )


def test_runs_of_mixed_releases_are_told_and_still_shown(tmp_path):
    runs = [run_of(tmp_path / name, release) for name, release in {"one": "0.2.0", "two": "0.3.0"}.items()]
    sources = read_sources(runs)
    assert sources.notes == [f"Mixed versions of tdbench: 0.2.0 in {tmp_path}/one; 0.3.0 in {tmp_path}/two"]
    assert len(sources.runs) == 2
    assert read_sources(runs[:1]).notes == []


def test_the_trials_of_a_sweep_tell_its_command_and_every_machine_that_it_ran_on(tmp_path):
    sweep = copied(FASHION, tmp_path)
    with open(sweep / "trials.csv") as file:
        done = [row["trial"] for row in csv.DictReader(file) if row["status"] == "done"]
    for number, trial in enumerate(done):
        run_of(sweep / "trials" / trial, "0.2.0" if number else "0.1.0")
    sources = read_sources([sweep])
    section = sections.how_it_was_run(sources.sweeps[0])
    assert section.code == ["tdbench train --out 'a b'", f"tdbench ablate {sweep}/sweep.yaml"]
    assert f"tdbench: 0.1.0 (1 run); 0.2.0 ({len(done) - 1} runs)" in section.lines
    assert "training.epochs: 40" in section.lines
    assert f"Mixed versions of tdbench: 0.1.0 in {sweep}; 0.2.0 in {sweep}" in sources.notes


def test_the_pairs_of_a_difference_are_counted_not_the_runs_of_its_value(tmp_path):
    def without_a_baseline(text):
        lines = text.splitlines()
        failed = next(line for line in lines if ",none," in line and ",done," in line)
        return "\n".join(line for line in lines if line != failed) + "\n"

    (sweep,) = read_sources([copied(FASHION, tmp_path, trials_csv=without_a_baseline)]).sweeps
    row = sweep.compared[-1]
    assert (row["n"], sweep.num_pairs(row)) == ("9", 8)
    (cells,) = (cells for cells in sections.figures(sweep).tables[0].rows if cells[0] == row["drop_ratio"])
    assert f"{row['num_better']} of 8" in cells
    assert "n = 8" in sections.decided(sweep, row)
    assert sweep.num_pairs(row | {"num_pairs": "7"}) == 7, "what the sweep itself says goes first"


def test_what_repeats_a_sweep_with_code_of_the_users_own_trusts_it(tmp_path):
    def of_own(text):
        return text.replace("name: fashion_mnist", "name: net.py:make_data")

    (sweep,) = read_sources([copied(FASHION, tmp_path, sweep_yaml=of_own)]).sweeps
    assert sections.how_it_was_run(sweep).code[-1] == f"tdbench ablate {sweep.path}/sweep.yaml --trust"


def test_what_the_verdict_is_about_is_said_in_words_beside_a_picture(tmp_path):
    (sweep,) = read_sources([FASHION]).sweeps
    (share, _) = sections.realised_share(sweep).pictures
    assert share.alt.startswith("test error % against")


AUDIT = """\
trial,value,site,map,nominal_pct,dropped_pct,ci95_low,ci95_high,n,faults,notes
{trial},drop_ratio 0.5,stage1,16x32x32,1.5,1.4,1.3,1.6,8,,a batch norm follows
{trial},drop_ratio 0.5,stage2,32x16x16,4.5,0.0,0.0,0.0,8,nothing was dropped: the layer is off,a batch norm follows
"""


def test_the_audit_of_a_sweep_stands_with_what_it_dropped(tmp_path):
    folder = copied(FASHION, tmp_path)
    (sweep,) = read_sources([folder]).sweeps
    assert "not audited" in sections.was_it_on(sweep).words[-1]
    trial = next(one for one in sweep.trials if one["drop_ratio"] == "0.5")
    (folder / "audit.csv").write_text(AUDIT.format(trial=trial["trial"]))
    section = sections.was_it_on(sweep)
    assert not any("not audited" in line for line in section.words)
    assert section.tables[1].rows == [
        ["0.5", "stage1", "16×32×32", "1.500", "1.400", "1.300 to 1.600", "8"],
        ["0.5", "stage2", "32×16×16", "4.500", "0.000", "0.000 to 0.000", "8"],
    ]
    assert section.lines == [
        "fault: 0.5: nothing was dropped: the layer is off at stage2",
        "note: 0.5: a batch norm follows at stage1, stage2",
    ]
    (folder / "audit.csv").write_text(AUDIT.format(trial=trial["trial"]).replace("1.4,", "x,"))
    with pytest.raises(FolderError, match=r"audit\.csv, line 2: dropped_pct is no number: 'x'"):
        sections.was_it_on(sweep)


def test_the_audit_of_a_run_is_reported_with_it(tmp_path):
    run = run_of(tmp_path / "run", "0.3.0")
    (run / "audit.csv").write_text(AUDIT.format(trial=""))
    page = tdbench.report(run, out=tmp_path / "report.html").read_text()
    assert "fault: nothing was dropped: the layer is off at stage2" in page
