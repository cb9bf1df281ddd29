"""What TargetDrop adds to a training step, and how near `tdbench train` comes to the bare step.

    python benchmarks/step.py --model resnet18 --batch-size 64 --out benchmarks/results/step_cpu.csv

The runs take turns, a few steps each; the overhead is the median over the turns of the paired ratio, with a 95 %
interval from the order statistics of those ratios.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from scipy.stats import binom

from tdbench import load_config
from tdbench.training.run import Run


def prepare(regularizer: str, model: str, batch_size: int, precision: str) -> Run:
    flags = {"regularizer": regularizer, "model": model, "batch_size": batch_size, "precision": precision}
    run = Run(load_config(overrides=flags))
    run.begin_steps()
    return run


def time_steps(run: Run, steps: int) -> float:
    images, labels = next(iter(run.batches.epoch(1, 0, 1)))
    run.hardware.synchronize()
    begun = time.perf_counter()
    for _ in range(steps):
        run.train_step(images, labels, 0)
    run.hardware.synchronize()
    return 1e3 * (time.perf_counter() - begun) / steps


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median: order statistics whose ranks a fair coin makes likely."""
    ordered = sorted(values)
    low = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return ordered[low], ordered[-1 - low]


def main(
    model: Annotated[str, typer.Option()] = "resnet18",
    batch_size: Annotated[int, typer.Option()] = 64,
    precision: Annotated[str, typer.Option()] = "auto",
    regularizer: Annotated[str, typer.Option()] = "targetdrop",
    turns: Annotated[int, typer.Option(help="Turns of each run.")] = 20,
    steps: Annotated[int, typer.Option(help="Steps per turn.")] = 3,
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/step_cpu.csv"),
) -> None:
    runs = {name: prepare(name, model, batch_size, precision) for name in ("none", regularizer)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name in list(runs)[:: 1 if turn % 2 else -1]:  # neither is always the one that finds the cache warm
            step_ms = time_steps(runs[name], steps)
            if turn > 0:
                times[name].append(step_ms)
    rows = []
    for name, run in runs.items():
        overheads = [100 * (a / b - 1) for a, b in zip(times[name], times["none"], strict=True)]
        low, high = median_interval(overheads)
        step_ms = statistics.median(times[name])
        rows.append(
            {
                "method": name,
                "model": model,
                "batch_size": batch_size,
                "precision": run.hardware.precision,
                "memory_format": run.config.hardware.memory_format,
                "device": run.hardware.name(),
                "threads": run.hardware.threads,
                "torch": torch.__version__,
                "turns": turns,
                "step_ms": round(step_ms, 2),
                "train_img_per_s": round(1e3 * batch_size / step_ms, 1),
                "overhead_pct": round(statistics.median(overheads), 2),
                "overhead_ci95_low": round(low, 2),
                "overhead_ci95_high": round(high, 2),
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
