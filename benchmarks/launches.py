"""Kernel launches, copies and waits of a training step on a GPU, phase by phase, counted where there is none.

    python -m benchmarks.launches --out benchmarks/results/launches.csv

Counted on the null GPU of `tests/nullgpu`: torch's CUDA code, Triton and cuDNN's front end run as they are, the kernels
do not. The phase `meter` is what belongs to no other: hits, losses, drops. A recorded step is one graph, so that its
phases cannot be told apart; `captured` is how many launches went into it. `site` is what TargetDrop adds, over
the number of its sites. `aim` is what there should be at most, where something was set.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import pandas as pd
import torch
import typer

from tdbench import load_config
from tdbench.regularizers.base import DropMeter
from tdbench.training.run import Run
from tests import nullgpu

NETWORKS = {"resnet8": 64, "resnet18": 128}  # with their batch sizes
GRAPHS = ("never", "auto")
METHODS = ("none", "targetdrop")
NUM_SITES = 2  # of TargetDrop
PHASES = ("batch", "forward", "backward", "optimizer", "meter")
WARM_STEPS = 6  # kernels are chosen and compiled, the graph is recorded
COLUMNS = ["model", "batch_size", "regularizer", "precision", "graph", "phase", "launches", "aim", "copies_in"]
COLUMNS += ["copies_out", "syncs", "captured", "torch"]
# A batch is to be one gather and one flip; a step with TargetDrop 5 % more at most than when it was first counted; a
# recorded one its graph, the two copies into it, its learning rate and its loss.
AIMS = {("never", "batch"): 2, ("auto", "batch"): 2, ("auto", "step"): 5, ("never", "site"): 2}
STEP_AIMS = {"resnet8": 165, "resnet18": 357}


class Phases:
    """Tells apart what the phases of a step ask of the GPU."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(PHASES, nullgpu.NOTHING)
        self._now, self._begun = "meter", nullgpu.counts()

    def enter(self, phase: str) -> str:
        """Begin a phase; return the one that it ends."""
        now, before = nullgpu.counts(), self._now
        self.counts[before] += now - self._begun
        self._now, self._begun = phase, now
        return before

    def within(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose doings count to a phase."""

        def counted(*arguments: Any, **options: Any) -> Any:
            before = self.enter(phase)
            try:
                return call(*arguments, **options)
            finally:
                self.enter(before)

        return counted

    def of_step(self, run: Run, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], number: int) -> None:
        """Do one step of a run."""
        parts = [(run.model, "forward", "forward"), (torch.nn.functional, "cross_entropy", "forward")]
        parts += [(torch.Tensor, "backward", "backward"), (DropMeter, "add", "meter")]
        parts += [(run.optimizer, "step", "optimizer"), (run.optimizer, "zero_grad", "optimizer")]
        parts += [(run.rates, "set", "optimizer")]
        with ExitStack() as until_end:
            for owner, name, phase in parts:
                until_end.enter_context(patch.object(owner, name, self.within(phase, getattr(owner, name))))
            images, labels = self.within("batch", next)(batches)
            run.train_step(images, labels, number)
            self.enter("meter")


def counted(keys: dict[str, Any]) -> dict[str, nullgpu.Counts]:
    """Return what each phase of a run's step asks of the GPU, and the step as a whole."""
    run = Run(load_config(overrides={"device": "cuda", **keys}))
    run.begin_steps()
    batches = run.batches.epoch(1, 0, WARM_STEPS + 1)
    before = nullgpu.counts()
    for number in range(WARM_STEPS):
        run.train_step(*next(batches), number)
    captured = (nullgpu.counts() - before).captured
    phases = Phases()
    phases.of_step(run, batches, WARM_STEPS)
    batch = phases.counts.pop("batch")
    step = sum(phases.counts.values(), nullgpu.NOTHING)._replace(captured=captured)
    return {"batch": batch} | ({} if captured else phases.counts) | {"step": step}


def rows_of(model: str, graph: str, precision: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a network, with each method."""
    common = {"model": model, "batch_size": NETWORKS[model], "precision": precision, "torch": torch.__version__}
    setting = {name: common[name] for name in ("model", "batch_size", "precision")} | {"hardware.graph": graph}
    aims = AIMS | {("never", "step"): STEP_AIMS[model]}
    steps = {}
    for method in METHODS:
        phases = counted(setting | {"regularizer": method})
        for phase, count in phases.items():
            cells = count._asdict() | {"regularizer": method, "graph": graph, "phase": phase}
            yield common | cells | {"launches": count.launches + count.graphs, "aim": aims.get((graph, phase))}
        steps[method] = phases["step"].launches
    if graph == "never":
        a_site = (steps["targetdrop"] - steps["none"]) / NUM_SITES
        cells = {"regularizer": "targetdrop", "graph": graph, "phase": "site", "launches": a_site}
        yield common | cells | {"aim": aims[graph, "site"]}


def main(
    out: Annotated[Path, typer.Option(help="CSV file.")] = Path("benchmarks/results/launches.csv"),
    precision: Annotated[str, typer.Option()] = "bf16",
    model: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
) -> None:
    if reason := nullgpu.reason_against():
        raise SystemExit(reason)
    if not nullgpu.is_here():
        os.execve(sys.executable, sys.orig_argv, nullgpu.environment())  # anew, with it
    rows = [row for model, graph in product(model or NETWORKS, GRAPHS) for row in rows_of(model, graph, precision)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    print(table.to_string(index=False))
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False)


if __name__ == "__main__":
    typer.run(main)
