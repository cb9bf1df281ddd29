"""How long `tdbench --help` takes, against `import torch`, as whole processes.

python benchmarks/startup.py --out benchmarks/results/startup.csv
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

COMMANDS = {
    "tdbench --help": [sys.executable, "-m", "tdbench", "--help"],
    'python -c "import torch"': [sys.executable, "-c", "import torch"],
}


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/startup.csv"),
    turns: Annotated[int, typer.Option()] = 7,
) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(turns + 1):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            if turn > 0:
                times[name].append(time.perf_counter() - begun)
    torch_s = times['python -c "import torch"']
    rows = [
        {
            "command": name,
            "turns": turns,
            "median_s": round(statistics.median(values), 3),
            "share_of_import_torch": round(statistics.median(a / b for a, b in zip(values, torch_s, strict=True)), 3),
        }
        for name, values in times.items()
    ]
    print(pd.DataFrame(rows).to_string(index=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
