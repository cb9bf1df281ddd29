"""What a sweep over an image folder costs beside its training: one decoding, and the time between two trials.

    python benchmarks/folder.py --out benchmarks/results/folder_cpu.csv

The folder holds PNGs of random blobs, 96×64 pixels, three quarters of them for training. The trials run one after the
other. A trial has started when its `config.yaml` is there, which is written before the first step, with data and
network at hand; it has ended when its `result.json` is there. The load of the machine stands beside each figure.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from PIL import Image

from tdbench.training.hardware import cpu_name

WIDTH, HEIGHT, NUM_CLASSES = 96, 64, 4
LOAD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from tdbench.config import DataConfig\n"
    "from tdbench.data.sources import load_data\n"
    "begun = time.perf_counter()\n"
    "load_data(DataConfig(name='folder', root=Path(sys.argv[1])), 0)\n"
    "print(time.perf_counter() - begun)\n"
)


def write_folder(root: Path, num_images: int) -> None:
    """Write train/ and test/ with a folder per class, whose images differ in their mean."""
    generator = np.random.default_rng(0)
    for part, num in (("train", num_images * 3 // 4), ("test", num_images // 4)):
        for label in range(NUM_CLASSES):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(num // NUM_CLASSES):
                coarse = generator.integers(0, 128, (8, 12, 3)) + 30 * label
                image = Image.fromarray(coarse.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
                image.save(folder / f"{number}.png")


def load_s(root: Path) -> float:
    """Return the seconds that a process of its own takes to load the data set, without its imports."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(root)], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def sweep(root: Path, folder: Path, num_seeds: int, epochs: int, threads: int) -> tuple[float, float, list[float]]:
    """Return the seconds of a sweep of three values, of the training in it, and from each trial's end to a start."""
    flags = ["--data", "folder", "--data-root", str(root), "--epochs", str(epochs), "--out", str(folder)]
    flags += ["--jobs", "1", "--threads", str(threads)]
    swept = ["--param", "block_size", "--values", "3,5,7", "--seeds", str(num_seeds), "--baseline", "3", "--quiet"]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tdbench", "ablate", *flags, *swept], stdout=subprocess.PIPE, check=True)
    total_s = time.perf_counter() - begun
    trials = [path.parent for path in folder.glob("trials/*/result.json")]
    training_s = sum(json.loads((trial / "result.json").read_text())["wall_s"] for trial in trials)
    spans = sorted((written_s(trial / "config.yaml"), written_s(trial / "result.json")) for trial in trials)
    return total_s, training_s, [start - end for (_, end), (start, _) in pairwise(spans)]


def written_s(path: Path) -> float:
    """Return when a file was written."""
    return path.stat().st_mtime


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/folder_cpu.csv"),
    num_images: Annotated[int, typer.Option(help="Images of the folder.")] = 1600,
    num_seeds: Annotated[int, typer.Option(help="Seeds of each of the three values.")] = 4,
    epochs: Annotated[int, typer.Option(help="Epochs of each trial.")] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads of each trial.")] = 2,
) -> None:
    rows = []

    def note(what: str, values: list[float], unit: str) -> None:
        row = {
            "what": what,
            "median": round(statistics.median(values), 3),
            "low": round(min(values), 3),
            "high": round(max(values), 3),
            "unit": unit,
            "n": len(values),
            "device": cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "load_1min": round(os.getloadavg()[0], 2),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        rows.append(row)
        print({key: row[key] for key in ("what", "median", "low", "high", "unit", "n", "load_1min")}, flush=True)

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "pictures"
        write_folder(root, num_images)
        first_s, again_s = load_s(root), load_s(root)
        note(f"loading {num_images} PNGs, the first time", [first_s], "s")
        note(f"loading {num_images} PNGs, decoded before", [again_s], "s")
        shutil.rmtree(root / ".tdbench")
        total_s, training_s, gaps = sweep(root, Path(place) / "sweep", num_seeds, epochs, threads)
        decoding_s = first_s - again_s
        name = f"sweep of {len(gaps) + 1} trials of {epochs} epochs with {threads} thread(s)"
        note(f"{name}, all of it", [total_s], "s")
        note(f"{name}, the training and evaluation in it", [training_s], "s")
        note(f"{name}, over the training in it and one decoding", [total_s / (training_s + decoding_s)], "times")
        note("from the end of a trial to the start of the next", gaps, "s")
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
