"""Images per second of whole runs of `tdbench train`, as result.json has them, in several ways.

    python benchmarks/train.py --device cuda --out benchmarks/results/train_cuda.csv

Each run is a process of its own on the embedded images. `train_img_per_s` is from the median step of the run, `wall_s`
all of it, with evaluation, checkpoints and, where compiled, the compiler.
"""

import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

COLUMNS = ["model", "regularizer", "batch_size", "compile", "graph", "precision", "device", "steps", "train_img_per_s"]
COLUMNS += ["wall_s", "peak_mem_mib", "status", "torch", "python"]


def train(
    model: str, batch_size: int, regularizer: str, compile: bool, graph: str, device: str, steps: int
) -> dict[str, object]:
    """Return the row of one run."""
    row = {"model": model, "regularizer": regularizer, "batch_size": batch_size, "compile": compile}
    row |= {"graph": graph, "steps": steps}
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "tdbench", "train", "--model", model, "--regularizer", regularizer]
        command += ["--batch-size", str(batch_size), "--max-steps", str(steps), "--set", "training.eval_every=1000"]
        command += ["--set", f"hardware.graph={graph}"]
        command += ["--device", device, "--compile" if compile else "--no-compile", "--out", f"{place}/run", "--quiet"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return row | {"status": done.stderr.strip().splitlines()[-1][:200]}
        result = json.loads(Path(place, "run", "result.json").read_text())
        environment = json.loads(Path(place, "run", "environment.json").read_text())
    row |= {name: result[name] for name in ("train_img_per_s", "wall_s", "peak_mem_mib", "status")}
    row |= {name: environment[name] for name in ("precision", "torch", "python")}
    return row | {"device": environment["device_name"]}


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/train_cuda.csv"),
    device: Annotated[str, typer.Option()] = "cuda",
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 300,
) -> None:
    rows = []
    networks = (("resnet18", 128), ("resnet8", 64))
    ways = ((False, "never"), (False, "auto"), (True, "auto"))
    for (compile, graph), (model, batch_size), regularizer in product(ways, networks, ("none", "targetdrop")):
        rows.append(train(model, batch_size, regularizer, compile, graph, device, steps))
        print(rows[-1], flush=True)
        pd.DataFrame(rows, columns=COLUMNS).to_csv(out, index=False)  # what is measured is kept


if __name__ == "__main__":
    typer.run(main)
