"""Files are written whole or not at all, and a folder serves one process at a time."""

import csv
import io
import json
import math
import os
import subprocess
import sys

import pytest

from tdbench.errors import FolderError
from tdbench.store import files as store
from tdbench.store.files import as_text, held, remove_unfinished, to_csv, to_json, write_atomically
from tdbench.store.folders import RunFolder
from tdbench.store.rows import EpochRow, RunResult, SummaryRow, TrialRow, TrialState, columns


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    write_atomically(path, b"old")

    def disk_full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", disk_full)
    with pytest.raises(FolderError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from tdbench.store import files as store\n"
        "Path.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        f"store.write_atomically(Path({str(path)!r}), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_bytes() == b"old"
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"
    (tmp_path / ".mine.tmp").write_text("of somebody else")
    with held(tmp_path):
        remove_unfinished(tmp_path)
        assert sorted(os.listdir(tmp_path)) == [".lock", ".mine.tmp", "result.json"]


def test_a_link_at_the_place_of_an_unfinished_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)  # as if it had been foreseen
    (tmp_path / "precious").write_text("old")
    (tmp_path / f".result.json.{'0' * 16}.tmp").symlink_to("precious")
    with pytest.raises(FolderError, match="cannot write"):
        write_atomically(tmp_path / "result.json", b"new")
    assert (tmp_path / "precious").read_text() == "old"


def test_a_file_has_the_permissions_that_the_user_s_files_have(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_columns_are_the_fixed_ones():
    assert ",".join(columns(EpochRow)) == (
        "epoch,lr,train_loss,train_error_pct,test_loss,test_error_pct,dropped_pct,train_img_per_s,epoch_s,peak_mem_mib,"
        "test_error_pct_ema"
    )
    assert ",".join(columns(RunResult)) == (
        "status,digest,seed,epochs,test_error_pct,best_test_error_pct,train_error_pct,dropped_pct,train_img_per_s,"
        "wall_s,peak_mem_mib,error,test_loss,ece_pct,brier,test_error_pct_bn,valid_error_pct,"
        "test_error_pct_ema"
    )
    assert ",".join(TrialRow.columns(["block_size"])) == (
        "trial,status,seed,block_size,digest,epochs,test_error_pct,best_test_error_pct,train_error_pct,dropped_pct,"
        "train_img_per_s,wall_s,peak_mem_mib,error,test_loss,ece_pct,brier,test_error_pct_bn,valid_error_pct,"
        "test_error_pct_ema"
    )
    assert ",".join(SummaryRow.columns(["block_size"])) == (
        "block_size,n,test_error_pct_mean,test_error_pct_std,ci95_low,ci95_high,delta_vs_baseline,delta_ci95_low,"
        "delta_ci95_high,p_value,p_holm,verdict,dropped_pct,train_img_per_s,detectable,num_better,delta_ci95_low_images,"
        "delta_ci95_high_images,test_error_pct_bn_mean,test_error_pct_bn_std,ci95_bn_low,ci95_bn_high,"
        "delta_bn_vs_baseline,delta_bn_ci95_low,delta_bn_ci95_high,metric,design,looks,metric_mean,metric_std,"
        "metric_ci95_low,metric_ci95_high,skewness,delta_test_loss,delta_test_loss_ci95_low,delta_test_loss_ci95_high,"
        "delta_ece_pct,delta_ece_pct_ci95_low,delta_ece_pct_ci95_high,delta_brier,delta_brier_ci95_low,"
        "delta_brier_ci95_high,num_pairs"
    )


def test_a_result_is_read_back_as_it_was_written_and_later_fields_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    result = RunResult(TrialState.DONE, "0" * 12, seed=3, epochs=2, test_error_pct=1.5)
    folder.write_result(result)
    assert folder.read_result() == result
    later = json.loads((tmp_path / "result.json").read_text()) | {"of_a_later_release": 2.0}
    (tmp_path / "result.json").write_text(json.dumps(later))
    assert folder.read_result() == result


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("test_error_pct", -5.0), ("test_error_pct_bn", 100.5), ("train_error_pct", "7"), ("dropped_pct", True)],
        *[("epochs", -1), ("epochs", 2.5), ("seed", "0"), ("wall_s", -0.1), ("error", 3), ("digest", 7)],
    ],
)
def test_a_result_that_cannot_be_is_refused_with_the_field(tmp_path, name, value):
    folder = RunFolder(tmp_path)
    folder.write_result(RunResult(TrialState.DONE, "0" * 12, seed=3, epochs=2, test_error_pct=1.5))
    (tmp_path / "result.json").write_text(
        json.dumps(json.loads((tmp_path / "result.json").read_text()) | {name: value})
    )
    with pytest.raises(FolderError, match=f"is not a run's: {name} is "):
        folder.read_result()


def test_an_unmeasured_figure_is_an_empty_cell_and_null():
    assert to_csv([{"a": 1, "b": None}], ["a", "b"]) == "a,b\n1,\n"
    assert json.loads(to_json({"a": math.nan, "b": math.inf, "c": 1.5})) == {"a": None, "b": None, "c": 1.5}


def test_figures_survive_the_csv_bit_for_bit():
    value = 0.1 + 0.2
    assert float(to_csv([{"a": value}], ["a"]).splitlines()[1]) == value


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tdbench.store.files import held\n"
        f"with held(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderError, match="in use by another process"), held(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with held(tmp_path):
        pass


def test_clearing_a_run_deletes_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("config.yaml", "metrics.csv", "thesis.tex"):
        (tmp_path / name).write_text("x")
    folder.clear()
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "done"}'])
def test_a_result_that_no_run_wrote_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(FolderError, match=r"result\.json"):
        RunFolder(tmp_path).read_result()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (0.15000000000000002, "0.15"),
        (1.0, "1"),
        (1e-4, "0.0001"),
        (None, "null"),
        (True, "true"),
        (("stage1", "stage2"), "stage1+stage2"),
        ([0.3, 0.6], "0.3+0.6"),
        ("none", "none"),
    ],
)
def test_a_value_is_labelled_as_flags_and_files_write_it(value, text):
    assert as_text(value) == text


def test_json_is_strict_at_any_depth():
    text = to_json({"share": math.nan, "rows": [{"scale": math.inf, "n": 8}]})
    assert json.loads(text) == {"share": None, "rows": [{"scale": None, "n": 8}]}


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+cmd", "-cmd", "@sum"])
def test_a_text_is_no_formula_of_a_spreadsheet(text):
    written = to_csv([{"value": text, "other": -0.5}], ["value", "other"])
    assert next(csv.DictReader(io.StringIO(written, newline=""))) == {"value": f"'{text}", "other": "-0.5"}


def test_control_characters_stay_out_of_a_table():
    assert to_csv([{"value": "\ra\tb\x1b"}], ["value"]) == "value\n\\ra\\tb\\x1b\n"


def test_a_number_that_is_text_stays_a_number():
    assert to_csv([{"value": value} for value in ("-0.5", "+3", "-1e-3", "a-b")], ["value"]).split() == [
        *("value", "-0.5", "+3", "-1e-3", "a-b")
    ]


def test_every_file_of_a_run_is_listed_travels_and_goes_with_the_run_and_no_other(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "mine.txt").touch()
    folder.write_config({"seed": 1})
    folder.write_contents({"model.name": {"net.py": "abc"}}, {"model.name/net.py": b"x = 1"})
    assert folder.files() == ["config.yaml", "contents.json", "user_code.zip"]
    folder.clear()
    assert sorted(os.listdir(tmp_path)) == ["mine.txt"]


def test_contents_that_are_none_leave_no_file_of_before(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_contents({"data": {"train/cat": "3 files"}}, {})
    assert folder.read_contents() == {"data": {"train/cat": "3 files"}}
    folder.write_contents({}, {})
    assert folder.read_contents() is None
