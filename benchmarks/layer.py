"""What one layer of each method costs, forward and backward, against the floor and against torchvision's DropBlock2d.

    python benchmarks/layer.py --out benchmarks/results/layer_cpu.csv

Measured by `tdbench.profiling`, as `tdbench profile` does: all take turns, the ratios are medians over the turns.
torchvision's layer has the knobs of `dropblock`.
"""

import platform
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torchvision
import typer

from tdbench.profiling.layer import LAYER_COLUMNS, Setting, profile_layers
from tdbench.profiling.timing import TURNS, paired_ratio
from tdbench.regularizers.registry import find_method, method_names
from tdbench.training.hardware import Hardware, find_device

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
RIVAL = "torchvision_dropblock"


def factories():
    knobs = find_method("dropblock")().knobs()
    layers = {name: find_method(name)().build for name in method_names()}
    return layers | {RIVAL: lambda channels: torchvision.ops.DropBlock2d(**knobs)}


def rows_of(shape, dtype, layout, device, seconds, turns):
    hardware = Hardware(device, "", FORMATS[layout], False, torch.get_num_threads())
    costs = profile_layers(factories(), shape, Setting(device, dtype, FORMATS[layout]), seconds, turns)
    rival_ms = next(cost.total_ms for cost in costs if cost.method == RIVAL)
    common = {
        "shape": "x".join(map(str, shape)),
        "dtype": str(dtype).removeprefix("torch."),
        "memory_format": layout,
        "device": hardware.name(),
        "compile": False,
        "threads": hardware.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for cost in costs:
        speedup = round(paired_ratio(rival_ms, cost.total_ms), 2) if rival_ms and cost.total_ms else None
        yield cost.figures() | common | {"dropblock_speedup": speedup}


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/layer_cpu.csv"),
    device: Annotated[str, typer.Option()] = "cpu",
    shape: Annotated[list[str] | None, typer.Option(help="NxCxHxW; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds per layer and cell.")] = 5.0,
    turns: Annotated[int, typer.Option(help="Turns per cell.")] = TURNS,
) -> None:
    place, rows = find_device(device), []
    if place.type == "cuda":
        torch.cuda.set_device(place)
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = [*LAYER_COLUMNS, "dropblock_speedup", "threads", "torch", "python"]
    for text in shape or ("128x64x32x32", "128x128x16x16"):
        for dtype in (torch.float32, torch.bfloat16):
            for layout in FORMATS:
                sides = tuple(map(int, text.split("x")))
                rows += (cell := list(rows_of(sides, dtype, layout, place, seconds, turns)))
                shown = ["method", "shape", "dtype", "memory_format", "total_ms", "floor_ratio", "dropblock_speedup"]
                print(pd.DataFrame(cell)[shown].to_string(index=False), flush=True)
                pd.DataFrame(rows, columns=columns).to_csv(out, index=False)  # what is measured is kept


if __name__ == "__main__":
    typer.run(main)
