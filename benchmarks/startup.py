"""How soon a command answers, against `import torch`: whole processes that take turns on an idle machine.

    python benchmarks/startup.py --out benchmarks/results/startup.csv

A `sign of life` is the time to the first byte that a command prints. `aim` is the share of `import torch` that each is
to stay under.
"""

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
import typer

PYTHON = [sys.executable]
TDBENCH = [sys.executable, "-m", "tdbench"]
IMPORT_TORCH = 'python -c "import torch"'
TINY = ["--train-fraction", "0.1", "--batch-size", "32", "--max-steps", "1"]
SWEEP = ["ablate", "--param", "block_size=3,5", "--seeds", "2", *TINY, "--out", "sweep"]

COMMANDS = {  # name -> arguments, exit code, aim
    "tdbench --help": (["--help"], 0, 0.2),
    "tdbench list": (["list"], 0, 0.2),
    "a misspelt key": (["train", "--set", "blok_size=3"], 2, 0.2),
    "an unknown method": (["train", "--regularizer", "targetdrp"], 2, 0.2),
    "a finished run": (["train", *TINY, "--out", "run"], 0, 0.2),
    "a finished sweep": (SWEEP, 0, 0.2),
    "ablate --dry-run of a finished sweep": ([*SWEEP, "--dry-run"], 0, 0.2),
    "train of one step": (["train", "--max-steps", "1", "--out", "new", "--fresh"], 0, 1.5),
}
SIGNS = {  # command -> arguments
    "train": ["train", "--out", "sign", "--fresh"],
    "ablate": ["ablate", "--param", "block_size", "--out", "sign-sweep"],
    "audit": ["audit"],
    "show": ["show"],
    "profile": ["profile"],
}


def whole(command: list[str], place: str, code: int = 0) -> float:
    """Return the seconds of a whole process."""
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place)
    taken_s = time.perf_counter() - begun
    assert done.returncode == code, command
    return taken_s


def first_byte(command: list[str], place: str) -> float:
    """Return the seconds until a process prints something; it is then ended."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=place)
    assert process.stdout is not None
    assert process.stdout.read(1)
    taken_s = time.perf_counter() - begun
    process.kill()
    process.communicate()
    return taken_s


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/startup.csv"),
    turns: Annotated[int, typer.Option(help="Turns of each figure, after one that does not count.")] = 7,
) -> None:
    times: dict[str, list[float]] = {}
    aims: dict[str, float] = {}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each import compiles its source anew, which no user meets
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([*TDBENCH, "train", *TINY, "--out", "run", "-q"], check=True, cwd=place)
        subprocess.run([*TDBENCH, *SWEEP, "-q"], check=True, cwd=place)
        for turn in range(turns + 1):
            measured = {IMPORT_TORCH: whole([*PYTHON, "-c", "import torch"], place)}
            for name, (arguments, code, aims[name]) in COMMANDS.items():
                measured[name] = whole([*TDBENCH, *arguments], place, code)
            for name, arguments in SIGNS.items():
                aims[f"{name}, sign of life"] = 0.2
                measured[f"{name}, sign of life"] = first_byte([*TDBENCH, *arguments], place)
                time.sleep(1.0)  # for what it had started to end with it
            for name, taken_s in measured.items() if turn > 0 else ():
                times.setdefault(name, []).append(taken_s)
    torch_s = times[IMPORT_TORCH]
    rows = [
        {
            "command": name,
            "turns": turns,
            "median_s": round(statistics.median(values), 3),
            "share_of_import_torch": round(statistics.median(a / b for a, b in zip(values, torch_s, strict=True)), 3),
            "aim": aims.get(name),
            "python": platform.python_version(),
        }
        for name, values in times.items()
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
