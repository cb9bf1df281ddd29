"""What one layer costs, forward and backward, against the floor: a multiplication by a scalar.

    python benchmarks/layer.py --out benchmarks/results/layer_cpu.csv

The candidates of a cell take turns, so that a drifting machine hurts all alike; the ratios are medians over the turns.
"""

import platform
import statistics
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import torchvision
import typer
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from tdbench import TargetDrop2d
from tdbench.training.precision import cpu_name

SHAPES = ((128, 64, 32, 32), (128, 128, 16, 16))
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Floor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.5


def candidates(channels: int) -> dict[str, nn.Module]:
    return {
        "floor": Floor(),
        "targetdrop": TargetDrop2d(channels),
        "torchvision_dropblock": torchvision.ops.DropBlock2d(p=0.1, block_size=5),
    }


def measure(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, turns: int, seconds: float):
    torch.manual_seed(0)
    x, grad = (torch.randn(shape, dtype=dtype).contiguous(memory_format=layout) for _ in range(2))
    x = x.relu().requires_grad_()
    timers = {
        name: Timer(
            "torch.autograd.grad(layer(x), x, grad)",
            globals={"torch": torch, "layer": layer, "x": x, "grad": grad},
            num_threads=torch.get_num_threads(),
        )
        for name, layer in candidates(shape[1]).items()
    }
    times: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(turns + 1):
        for name, timer in timers.items():
            median_ms = timer.blocked_autorange(min_run_time=seconds).median * 1e3
            if turn > 0:  # the first turn warms up
                times[name].append(median_ms)
    return times


def ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/layer_cpu.csv"),
    turns: Annotated[int, typer.Option(help="Turns per cell.")] = 9,
    seconds: Annotated[float, typer.Option(help="Seconds per candidate and turn.")] = 0.2,
) -> None:
    rows = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for layout_name, layout in FORMATS.items():
                times = measure(shape, dtype, layout, turns, seconds)
                for name, values in times.items():
                    low, *_, high = statistics.quantiles(values, n=5)
                    middle = statistics.median(values)
                    rows.append(
                        {
                            "method": name,
                            "shape": "x".join(map(str, shape)),
                            "dtype": str(dtype).removeprefix("torch."),
                            "memory_format": layout_name,
                            "device": cpu_name(),
                            "threads": torch.get_num_threads(),
                            "torch": torch.__version__,
                            "python": platform.python_version(),
                            "turns": turns,
                            "total_ms": round(middle, 3),
                            "p20_ms": round(low, 3),
                            "p80_ms": round(high, 3),
                            "floor_ratio": round(ratio(values, times["floor"]), 3),
                            "dropblock_speedup": round(ratio(times["torchvision_dropblock"], values), 2),
                        }
                    )
                print(pd.DataFrame(rows[-3:]).to_string(index=False, header=len(rows) == 3), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
