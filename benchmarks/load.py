"""What `tdbench train` keeps of its speed on a machine that others use too: two busy loops beside it.

    python benchmarks/load.py --out benchmarks/results/load_cpu.csv

Training alone and beside the loops take turns; `chosen` leaves OpenMP's spinning to tdbench, `spinning` sets it to what
OpenMP does by itself. `share_of_idle` is to be at least 0.4.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

LOOP = [sys.executable, "-c", "while True: pass"]
SPINNING = {"GOMP_SPINCOUNT": "300000"}  # libgomp's default; what the user sets is left alone
CASES = {
    "idle, chosen": (0, {}),
    "idle, sleeping": (0, {"GOMP_SPINCOUNT": "0"}),
    "loaded, spinning": (2, SPINNING),
    "loaded, sleeping": (2, {"GOMP_SPINCOUNT": "0"}),
    "loaded, chosen": (2, {}),
}


def train(place: str, num_loops: int, more: dict[str, str], epochs: int) -> float:
    """Return the images per second of a run beside busy loops."""
    loops = [subprocess.Popen(LOOP) for _ in range(num_loops)]
    try:
        options = ("--epochs", str(epochs), "--fresh", "--out", "run", "--json")
        command = [sys.executable, "-m", "tdbench", "train", *options]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, cwd=place, env={**os.environ, **more}
        )
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    return json.loads(done.stdout)["train_img_per_s"]


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/load_cpu.csv"),
    turns: Annotated[int, typer.Option(help="Turns of each case.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of ResNet-8 on digits.")] = 3,
) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(turns):
            for name, (num_loops, more) in CASES.items():
                rates[name].append(train(place, num_loops, more, epochs))
                print(name, round(rates[name][-1]), flush=True)
    idle = rates["idle, chosen"]
    rows = [
        {
            "case": name,
            "turns": turns,
            "train_img_per_s": round(statistics.median(values), 1),
            "share_of_idle": round(statistics.median(a / b for a, b in zip(values, idle, strict=True)), 3),
            "low": round(min(values), 1),
            "high": round(max(values), 1),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        }
        for name, values in rates.items()
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
