"""Images per second of whole runs of `tdbench train`, as result.json has them, in several ways.

    python benchmarks/train.py --device cuda --out benchmarks/results/train_cuda.csv
    python benchmarks/train.py --device cpu --turns 5 --out benchmarks/results/train_cpu.csv

Each run is a process of its own on the embedded images. `train_img_per_s` is from the median step of the run, `wall_s`
all of it, with evaluation, checkpoints and, where compiled, the compiler. On a CPU all is in fp32, the ways take turns,
and `train_loops.py` goes with them: `loop` is `tdbench`, `bare` or `plain`, and `of_bare` the images per second over
those of the bare step in the same turn. `of_bare` of `tdbench` without a regularizer is to be at least 0.95.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

COLUMNS = ["model", "regularizer", "batch_size", "compile", "graph", "precision", "device", "steps", "train_img_per_s"]
COLUMNS += ["wall_s", "peak_mem_mib", "status", "torch", "python", "loop", "turn", "of_bare"]
NETWORKS = (("resnet18", 128), ("resnet8", 64))

Row = dict[str, object]


def train(model: str, batch_size: int, regularizer: str, compile: bool, graph: str, device: str, steps: int) -> Row:
    """Return the row of one run."""
    row = {"model": model, "regularizer": regularizer, "batch_size": batch_size, "compile": compile}
    row |= {"graph": graph, "steps": steps, "loop": "tdbench"}
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "tdbench", "train", "--model", model, "--regularizer", regularizer]
        command += ["--batch-size", str(batch_size), "--max-steps", str(steps), "--set", "training.eval_every=1000"]
        command += ["--set", f"hardware.graph={graph}", "--precision", "fp32" if device == "cpu" else "auto"]
        command += ["--device", device, "--compile" if compile else "--no-compile", "--out", f"{place}/run", "--quiet"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return row | {"status": done.stderr.strip().splitlines()[-1][:200]}
        result = json.loads(Path(place, "run", "result.json").read_text())
        environment = json.loads(Path(place, "run", "environment.json").read_text())
    row |= {name: result[name] for name in ("train_img_per_s", "wall_s", "peak_mem_mib", "status")}
    row |= {name: environment[name] for name in ("precision", "torch", "python")}
    return row | {"device": environment["device_name"]}


def run_loop(loop: str, model: str, batch_size: int, steps: int) -> Row:
    """Return the row of a loop of `train_loops.py`."""
    row = {"model": model, "regularizer": "none", "batch_size": batch_size, "compile": False, "precision": "fp32"}
    row |= {"steps": steps, "loop": loop, "device": "cpu"}
    script = Path(__file__).with_name("train_loops.py")
    command = [sys.executable, script, loop, model, str(batch_size), str(steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return row | {"status": "done"} | json.loads(done.stdout)


def on_a_cpu(steps: int) -> Iterator[Row]:
    """Yield the rows of one turn of all that is measured on a CPU."""
    for model, batch_size in NETWORKS:
        turn = [run_loop(loop, model, batch_size, steps) for loop in ("bare", "plain")]
        for compile, regularizer in product((False, True), ("none", "targetdrop")):
            turn.append(train(model, batch_size, regularizer, compile, "never", "cpu", steps))
        bare = turn[0]["train_img_per_s"]
        yield from (row | {"of_bare": round(row.get("train_img_per_s", float("nan")) / bare, 3)} for row in turn)


def on_a_gpu(device: str, steps: int) -> Iterator[Row]:
    """Yield the rows of one turn of all that is measured on a GPU."""
    ways = ((False, "never"), (False, "auto"), (True, "auto"))
    for (compile, graph), (model, batch_size), regularizer in product(ways, NETWORKS, ("none", "targetdrop")):
        yield train(model, batch_size, regularizer, compile, graph, device, steps)


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/train_cuda.csv"),
    device: Annotated[str, typer.Option()] = "cuda",
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 300,
    turns: Annotated[int, typer.Option(help="Turns of all of them.")] = 1,
) -> None:
    rows: list[Row] = []
    for turn in range(1, turns + 1):
        for row in on_a_cpu(steps) if device == "cpu" else on_a_gpu(device, steps):
            rows.append(row | {"turn": turn})
            table = pd.DataFrame(rows, columns=COLUMNS)
            table.to_csv(out, index=False)  # what is measured is kept, whenever it is ended
            print(table.tail(1).to_string(index=False, header=len(rows) == 1), flush=True)
    ways = ["model", "loop", "regularizer", "compile"]
    print(table.groupby(ways, sort=False)[["train_img_per_s", "of_bare"]].median().to_string())


if __name__ == "__main__":
    typer.run(main)
