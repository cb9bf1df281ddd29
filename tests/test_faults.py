"""A small part of the campaign of faults, `benchmarks/faults.py`: nothing of it may end in another result."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for each attempt")
def test_a_small_campaign_finds_no_fault(tmp_path):
    numbers = {"writes": 12, "kills": 2, "damages": 10, "typed": 3000, "jobs": 2, "steps": 0, "trials": 0, "seed": 7}
    options = [part for name, number in numbers.items() for part in (f"--{name}", str(number))]
    done = subprocess.run(
        [sys.executable, CAMPAIGN, "--out", "faults.csv", "--no-ray", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "faults.csv").open(newline="", encoding="utf-8") as file:
        outcomes = {row["outcome"] for row in csv.DictReader(file)}
    assert outcomes == {"same", "refused"}
