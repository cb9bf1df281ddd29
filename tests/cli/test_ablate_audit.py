"""`tdbench ablate --audit`: each value is held against its configuration, and the report shows what came out."""

import csv

import pytest


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def audited_sweep(cli, *arguments):
    return cli("ablate", "--param", "drop_ratio=0,0.15", "--seeds", "2", "--epochs", "1", "--set",
               "data.train_fraction=0.05", "--audit", "--out", "s", *arguments)  # fmt: skip


@pytest.mark.slow
def test_an_audited_sweep_names_the_value_at_fault_and_the_report_shows_it(cli, tmp_path):
    done = audited_sweep(cli)
    assert done.code == 1
    assert "auditing 2 values" in done.out
    assert "fault: drop_ratio 0: nothing was dropped: the layer is off at stage1, stage2" in done.out
    assert done.err == "tdbench: the audit found faults in 1 value: s/audit.csv\n"
    rows = table(tmp_path / "s" / "audit.csv")
    assert [(row["value"], row["site"], bool(row["faults"])) for row in rows] == [
        ("drop_ratio 0", "stage1", True), ("drop_ratio 0", "stage2", True),
        ("drop_ratio 0.15", "stage1", False), ("drop_ratio 0.15", "stage2", False),
    ]  # fmt: skip
    trials = {row["trial"]: row["drop_ratio"] for row in table(tmp_path / "s" / "trials.csv")}
    assert [trials[row["trial"]] for row in rows] == ["0", "0", "0.15", "0.15"]
    again = audited_sweep(cli, "--quiet")
    assert (again.code, again.err) == (1, done.err)
    assert table(tmp_path / "s" / "audit.csv") == rows
    page = cli("report", "s", "--out", "report.html")
    assert page.code == 0
    assert "fault: 0: nothing was dropped: the layer is off at stage1, stage2" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_finished_sweep_is_audited_afterwards_and_trains_nothing(cli, tmp_path):
    sweep = ("ablate", "--param", "block_size=3,5", "--seeds", "2", *cli.tiny, "--out", "s")
    assert cli(*sweep).code == 0
    before = (tmp_path / "s" / "trials.csv").read_bytes()
    done = cli(*sweep, "--audit")
    assert (done.code, done.err) == (0, "")
    assert "nothing to do" in done.out
    assert "audit.csv" in done.out.splitlines()[-1]
    assert (tmp_path / "s" / "trials.csv").read_bytes() == before
    assert {row["faults"] for row in table(tmp_path / "s" / "audit.csv")} == {""}


def test_an_audit_of_a_script_is_refused(cli, tmp_path):
    done = cli("ablate", "--command", "python x.py {lr} {seed} {out}", "--read", "stdout:(.*)", "--lower-is-better",
               "--param", "lr=1,2", "--baseline", "1", "--seeds", "2", "--audit")  # fmt: skip
    assert (done.code, done.out) == (2, "")
    assert "--audit is about tdbench's own runs" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_where_no_value_has_a_regularizer_there_is_nothing_to_audit(cli, tmp_path):
    done = cli("ablate", "--regularizer", "none", "--param", "model=resnet8", "--seeds", "2", *cli.tiny, "--audit",
               "--out", "s")  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert "no value has a regularizer to be audited" in done.out
    assert not (tmp_path / "s" / "audit.csv").exists()
