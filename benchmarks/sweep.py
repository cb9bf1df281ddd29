"""What a sweep costs beside its training: planning and resuming, the overhead of a trial, and what `--jobs` gains.

    python benchmarks/sweep.py --out benchmarks/results/sweep_cpu.csv

Each figure is of whole processes. The sweep of 10,000 finished trials is made of copies of one result.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from tdbench.results.store import RESULT_FIELDS, SweepFolder
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.plan import make_plan
from tdbench.training.precision import cpu_name

RATIOS = [round(0.001 * (number + 1), 3) for number in range(99)]  # and the baseline


def run(*arguments: str) -> tuple[float, float, str]:
    """Return the seconds and the peak memory, in MiB, of `tdbench ARGUMENTS`, and what it printed."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'tdbench', *sys.argv[1:]], stdout=subprocess.PIPE, text=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "print(done.stdout, end='')\n"
        "sys.exit(done.returncode)"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    memory, _, printed = done.stdout.partition("\n")
    return time.perf_counter() - begun, int(memory) / 1024, printed


def large_sweep(folder: Path, num_trials: int) -> list[str]:
    """Write a finished sweep of that many trials, and return the command that resumes it."""
    num_seeds = num_trials // (len(RATIOS) + 1)
    plan = make_plan(Experiment(sweep={"drop_ratio": RATIOS}, seeds=num_seeds))
    sweep = SweepFolder(folder)
    folder.mkdir(parents=True)
    sweep.write_sweep(plan.tree())
    for number, (digest, config) in enumerate(plan.trials.items()):
        result = dict.fromkeys(RESULT_FIELDS, 1.0) | {"status": "done", "digest": digest, "seed": config.seed}
        trial = sweep.trial(digest)
        trial.path.mkdir(parents=True)
        result |= {"test_error_pct": 1 + number % 7 / 10, "error": None}
        (trial / "result.json").write_text(json.dumps(result))
    values = ",".join(map(str, RATIOS))
    return ["ablate", "--param", "drop_ratio", "--values", values, "--seeds", str(num_seeds), "--out", str(folder)]


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/sweep_cpu.csv"),
    num_trials: Annotated[int, typer.Option(help="Finished trials of the large sweep.")] = 10_000,
    turns: Annotated[int, typer.Option(help="Turns of each figure.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of the trials that are timed with --jobs 1 and 2.")] = 5,
) -> None:
    rows = []

    def note(what: str, values: list[float], unit: str) -> None:
        row = {
            "what": what,
            "median": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
            "unit": unit,
            "turns": len(values),
            "device": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        rows.append(row)
        print({key: row[key] for key in ("what", "median", "low", "high", "unit", "turns")}, flush=True)

    with tempfile.TemporaryDirectory() as place:
        command = large_sweep(Path(place) / "large", num_trials)
        for name, more in (("plan (--dry-run)", ["--dry-run", "--quiet"]), ("resume", ["--quiet"])):
            measured = [run(*command, *more) for _ in range(turns)]
            note(f"{name} of {num_trials} finished trials", [seconds for seconds, _, _ in measured], "s")
            note(f"{name} of {num_trials} finished trials, peak memory", [mib for _, mib, _ in measured], "MiB")

        seconds: dict[int, list[float]] = {1: [], 2: []}
        overheads = []
        for turn in range(turns):
            for jobs in seconds:
                folder = Path(place) / f"jobs{jobs}-{turn}"
                flags = ["--param", "block_size", "--values", "3,5,7", "--seeds", "3", "--epochs", str(epochs)]
                taken, _, _ = run("ablate", *flags, "--jobs", str(jobs), "--out", str(folder), "--quiet")
                seconds[jobs].append(taken)
                if jobs == 1:
                    results = [json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")]
                    # The start of the command and its tables are not a trial's; an empty call of it measures them.
                    again, _, _ = run("ablate", *flags, "--jobs", "1", "--out", str(folder), "--quiet")
                    overheads.append((taken - again - sum(result["wall_s"] for result in results)) / len(results))
        note("overhead per trial outside training, --jobs 1", overheads, "s")
        for jobs, values in seconds.items():
            note(f"12 ResNet-8 trials of {epochs} epochs on digits, --jobs {jobs}", values, "s")
        ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
        note("speed-up of --jobs 2 over --jobs 1", ratios, "times")
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
