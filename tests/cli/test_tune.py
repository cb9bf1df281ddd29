"""`tdbench tune` as a user meets it: killed anywhere it goes on, and no verdict comes from the search itself."""

import csv
import json
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

ASKED = ("tune", "--param", "drop_ratio=0.05..0.6", "--param", "block_size=1,3,5", "--trials", "4", "--jobs", "1")
SHORT = ("--train-fraction", "0.2", "--max-steps", "2", "--batch-size", "32", "--confirm-seeds", "3..3")


def tables(folder: Path) -> list[list[dict[str, str]]]:
    found = []
    for path in (folder / "candidates.csv", folder / "confirm" / "summary.csv"):
        with open(path) as file:
            rows = list(csv.DictReader(file))
        found.append([{k: v for k, v in row.items() if k not in ("wall_s", "train_img_per_s")} for row in rows])
    return found


@pytest.mark.slow
def test_the_search_chooses_and_the_confirmation_decides(cli):
    outcome = cli(*ASKED, *SHORT, "--out", "search", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert [row["candidate"] for row in told["candidates"]] == ["baseline", "default", "1", "2", "3"]
    assert {row["n"] for row in told["candidates"]} == {2}
    best = min(told["candidates"][2:], key=lambda row: row["delta_vs_baseline"])
    assert [row["arm"] for row in told["confirmed"]] == ["none", "default", f"candidate {best['candidate']}"]
    assert {row["n"] for row in told["confirmed"]} == {3}
    trials = {path.name for path in Path("search/trials").iterdir()}
    for path in Path("search/trials").iterdir():
        result = json.loads((path / "result.json").read_text())
        assert result["test_error_pct"] is None
        assert result["valid_error_pct"] is not None
    assert trials.isdisjoint(path.name for path in Path("search/confirm/trials").iterdir())
    again = cli(*ASKED, *SHORT, "--out", "search")
    assert "all 4 candidates were run before" in again.out
    assert "promised" in again.out
    with open("search/promised.csv") as file:
        promised = {row["arm"]: row for row in csv.DictReader(file)}
    assert [*promised] == ["default", f"candidate {best['candidate']}"]
    assert float(promised[f"candidate {best['candidate']}"]["promised"]) == pytest.approx(best["delta_vs_baseline"])
    for told_of in told["confirmed"][1:]:
        assert float(promised[told_of["arm"]]["kept"]) == told_of["delta_vs_baseline"]
        assert promised[told_of["arm"]]["kept_n"] == "3"
    other = cli(*ASKED, *SHORT, "--sampler", "random", "--out", "search")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "holds another search: sampler is tpe there and random here" in other.err
    without = cli(*ASKED, *SHORT, "--confirm", "0", "-q", "--out", "search")
    assert without.out.startswith("best of 4 candidates, no verdict yet")


@pytest.mark.slow
def test_a_dry_run_counts_the_runs_and_the_time_and_leaves_nothing(cli):
    told = json.loads(cli(*ASKED, *SHORT, "--out", "search", "--dry-run", "--json").out)
    assert (told["candidates"], told["candidates_left"], told["search_runs"], told["seeds"]) == (4, 4, 10, [0, 1])
    assert (told["confirmed"], told["confirm_runs"], told["confirm_runs_at_most"]) == (2, 9, 9)
    assert 0 < told["search_s"] < 600
    assert told["confirm_s"] == told["confirm_at_most_s"] > 0
    lines = cli(*ASKED, *SHORT, "--out", "search", "--dry-run").out.splitlines()
    assert re.fullmatch(r"search: 4 of 4 candidates left, 10 runs of seeds 0 and 1, about \d+:\d\d", lines[-3])
    assert lines[-2].startswith("confirmation: 2 values and the baseline, 9 runs of seeds 2 to 4, about ")
    assert re.fullmatch(r"19 runs to come, about \d+:\d\d; nothing was trained", lines[-1])
    assert not Path("search").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_kill_9_at_random_moments_changes_no_candidate_and_no_verdict(cli, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert cli(*ASKED, *SHORT, "--out", whole).code == 0
    chance, codes = random.Random(0), []
    for _ in range(10):
        process = cli.start(*ASKED, *SHORT, "--out", folder, "-q")
        time.sleep(chance.uniform(2, 6))
        process.kill()
        codes.append(cli.finish(process).code)
    assert codes.count(-signal.SIGKILL) >= 5
    assert cli(*ASKED, *SHORT, "--out", folder).code == 0
    assert tables(folder) == tables(whole)
    assert {one.name for one in (folder / "trials").iterdir()} == {one.name for one in (whole / "trials").iterdir()}


def test_what_cannot_be_searched_is_one_line_and_leaves_nothing(cli):
    for flags, words in (
        (("--param", "drop_ratio=0.6..0.05"), "--param drop_ratio must be LOW..HIGH"),
        (("--param", "drop_rat"), "did you mean drop_ratio"),
        (("--sampler", "tp"), "--sampler must be"),
        (("--budget", "soon"), "--budget must be a time"),
        (("--seed", "1"), "--search-seeds"),
        (("--trials", "0"), "--trials"),
    ):
        outcome = cli("tune", "--out", "search", *flags)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
        assert words in outcome.err
    assert not Path("search").exists()
