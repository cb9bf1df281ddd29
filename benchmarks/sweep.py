"""What a sweep costs beside its training: planning and resuming, the overhead of a trial, and what `--jobs` gains.

    python benchmarks/sweep.py --out benchmarks/results/sweep_cpu.csv
    python benchmarks/sweep.py --epochs 0 --out benchmarks/results/sweep_large.csv    # the large sweep alone

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

from tdbench.store.folders import SweepFolder
from tdbench.store.rows import RunResult, TrialState
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.plan import make_plan
from tdbench.training.hardware import cpu_name

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
        error_pct = 1 + number % 7 / 10
        result = RunResult(TrialState.DONE, digest, config.seed, 1, error_pct, error_pct, 1.0, 1.0, 1000.0, 1.0, 100.0)
        trial = sweep.trial(digest)
        trial.path.mkdir(parents=True)
        (trial / "result.json").write_text(json.dumps(result.to_tree()))
    values = ",".join(map(str, RATIOS))
    swept = ["--param", "drop_ratio", "--values", values, "--seeds", str(num_seeds)]
    return ["ablate", "--data", "digits", *swept, "--out", str(folder)]


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/sweep_cpu.csv"),
    num_trials: Annotated[int, typer.Option(help="Finished trials of the large sweep.")] = 10_000,
    turns: Annotated[int, typer.Option(help="Turns of each figure.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of the trials that are timed with --jobs 1 and 2; 0: none.")] = 8,
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

        def sweep(name: str, num_seeds: int, jobs: int) -> tuple[float, float, int]:
            """Return the seconds of a sweep and of the training in it, and the number of its trials."""
            folder = Path(place) / name
            flags = [
                "--data",
                "digits",
                "--param",
                "block_size",
                "--values",
                "3,5,7",
                "--seeds",
                str(num_seeds),
                "--epochs",
                str(epochs),
            ]
            taken, _, _ = run("ablate", *flags, "--jobs", str(jobs), "--out", str(folder), "--quiet")
            results = [json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")]
            return taken, sum(result["wall_s"] for result in results), len(results)

        seconds: dict[int, list[float]] = {1: [], 2: []}
        overheads, starts = [], []
        for turn in range(turns if epochs else 0):
            # What a sweep costs once, and what each trial adds to it, from a small and a large one.
            (small_s, small_training_s, few), (large_s, large_training_s, many) = (
                sweep(f"seeds{num_seeds}-{turn}", num_seeds, jobs=1) for num_seeds in (1, 3)
            )
            overheads.append(((large_s - large_training_s) - (small_s - small_training_s)) / (many - few))
            starts.append(small_s - small_training_s - few * overheads[-1])
            seconds[1].append(large_s)
            seconds[2].append(sweep(f"jobs2-{turn}", 3, jobs=2)[0])
        if epochs:
            note("overhead per trial outside training, --jobs 1", overheads, "s")
            note("start and tables of a sweep", starts, "s")
            for jobs, values in seconds.items():
                note(f"12 ResNet-8 trials of {epochs} epochs on digits, --jobs {jobs}", values, "s")
            ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
            note("speed-up of --jobs 2 over --jobs 1", ratios, "times")
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
