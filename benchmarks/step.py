"""What a method adds to a training step, and which share of the step its layers and their count take at most.

    python benchmarks/step.py --model resnet18 --batch-size 64 --out benchmarks/results/step_cpu.csv

Measured by `tdbench.profiling`, as `tdbench profile` does: the steps take turns, the overhead is the median of the
paired ratios with its 95 % interval, which a machine that others load too may not make narrow. So `layer_pct` is the
time of the layers alone, forward and backward at each of their sites, over the step's, and `meter_pct` that of counting
one boolean mask of the size of the map at each site, which is more than any method counts.
"""

import platform
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import pandas as pd
import torch
import typer

from tdbench import load_config
from tdbench.profiling.layer import Setting, profile_layers
from tdbench.profiling.step import STEP_COLUMNS, profile_steps
from tdbench.profiling.timing import median_ms
from tdbench.regularizers.base import DropMeter
from tdbench.training.hardware import DTYPES, activate, resolve
from tdbench.training.repeat import RepeatedStep


def layer_ms(config, sites, hardware):
    """Return the median time of the layers alone, not fused with a ReLU, on maps of their sites' shapes."""
    setting = Setting(hardware.device, DTYPES[hardware.precision], hardware.memory_format)
    name, total_ms = config.regularizer.name, 0.0
    for shape in sites:
        costs = profile_layers({name: config.regularizer.build}, (config.training.batch_size, *shape), setting, 2.0)
        total_ms += median(next(cost.total_ms for cost in costs if cost.method == name))
    return total_ms


def meter_ms(config, sites, device):
    """Return the time of counting one mask per site, each as large as the map."""
    meter, total_ms = DropMeter(device), 0.0
    for shape in sites:
        mask = torch.rand(config.training.batch_size, *shape, device=device) < 0.1
        total_ms += median_ms(lambda mask=mask: meter.add(mask.count_nonzero(), mask.numel()), device, seconds=1.0)
    return total_ms


def main(
    model: Annotated[str, typer.Option()] = "resnet18",
    batch_size: Annotated[int, typer.Option()] = 64,
    precision: Annotated[str, typer.Option()] = "auto",
    device: Annotated[str, typer.Option()] = "auto",
    compile: Annotated[bool, typer.Option()] = False,
    regularizer: Annotated[str, typer.Option(help="Methods, with commas between them.")] = "targetdrop",
    seconds: Annotated[float, typer.Option(help="Seconds per method.")] = 40.0,
    turns: Annotated[int, typer.Option(help="Turns of each.")] = 15,
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/step_cpu.csv"),
) -> None:
    flags = {"model": model, "batch_size": batch_size, "precision": precision, "device": device, "compile": compile}
    configs = {name: load_config(overrides=flags | {"regularizer": name}) for name in ["none", *regularizer.split(",")]}
    hardware = resolve(configs["none"].hardware)
    activate(hardware, deterministic=False)
    builders = {name: partial(RepeatedStep, config) for name, config in configs.items()}
    costs = profile_steps(builders["none"], builders, batch_size, hardware.device, seconds, turns)
    common = {
        "model": model,
        "precision": hardware.precision,
        "compile": compile,
        "device": hardware.name(),
        "memory_format": configs["none"].hardware.memory_format,
        "threads": hardware.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    rows = []
    for cost in costs:
        row = cost.figures() | common
        if cost.method != "none" and cost.step_ms:
            config = configs[cost.method]
            sites = list(RepeatedStep(config).run.insertion.shapes.values())
            row["layer_pct"] = round(100 * layer_ms(config, sites, hardware) / cost.median_ms(), 3)
            row["meter_pct"] = round(100 * meter_ms(config, sites, hardware.device) / cost.median_ms(), 3)
        rows.append(row)
    columns = [*STEP_COLUMNS, "layer_pct", "meter_pct", "memory_format", "threads", "torch", "python"]
    table = pd.DataFrame(rows, columns=columns)
    print(table.to_string(index=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
