"""What a profile measures: runs are built here, and passed to the rest of the package as calls."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tdbench.config import RunConfig
from tdbench.data.sources import LoadedData
from tdbench.profiling.failing import no_figures, note_failure, without_failing
from tdbench.profiling.layer import LAYER_COLUMNS, LayerCost, Setting, profile_layers
from tdbench.profiling.machine import Roofline, measure_machine
from tdbench.profiling.memory import attempt
from tdbench.profiling.step import STEP_COLUMNS, StepCost, batch_sizes, profile_steps
from tdbench.profiling.timing import MeasurementFailed, median_interval
from tdbench.profiling.trace import count_work
from tdbench.store.files import to_csv, to_json, write_atomically
from tdbench.store.folders import ENVIRONMENT
from tdbench.store.profiles import BASELINE, LAYER, STEP, SUMMARY, markdown
from tdbench.store.progress import TellProgress, part_of
from tdbench.training.environment import describe_environment
from tdbench.training.hardware import DTYPES, Hardware, describe_machine
from tdbench.training.repeat import RepeatedStep

Shape = tuple[int, int, int, int]

MACHINE_SECONDS = 0.5


@dataclass
class Profile:
    """What is to be measured, and the resulting rows.

    Attributes:
        configs: A run for each method and for the baseline.
        methods: The measured methods.
        left_out: Those that the network has no site for, with the reason.
        shapes: Feature maps of the layer table.
        data: The data set of all runs; None: each reads it.
        layer, step: Rows of the two tables.
        machine: The machine's rates and the baseline step's share of them.
        failures: The user methods that raised while they were measured, each with its error.
        folder: Where the tables were saved; None: not yet.
    """

    configs: dict[str, RunConfig]
    methods: list[str]
    left_out: dict[str, str]
    shapes: list[Shape]
    hardware: Hardware
    data: LoadedData | None = None
    layer: list[dict[str, Any]] = field(default_factory=list)
    step: list[dict[str, Any]] = field(default_factory=list)
    machine: dict[str, Any] | None = None
    failures: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def baseline(self) -> RunConfig:
        """The run without a method."""
        return self.configs[BASELINE]

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self.baseline.training.batch_size

    @property
    def dtype(self) -> torch.dtype:
        """Type of the feature maps."""
        return DTYPES[self.hardware.precision]

    def facts(self) -> dict[str, str]:
        """Return the facts of the measurement by name, a line each."""
        compiled = ", compiled" if self.hardware.compile else ""
        machine = describe_machine(self.hardware)
        kernel = "" if self.hardware.device.type != "cpu" or machine["cpp_kernels"] else "; TargetDrop without its C++"
        return {
            "model": self.baseline.model.name,
            "device": f"{self.hardware.name()}{kernel}",
            "precision": f"{self.hardware.precision}, {self.baseline.hardware.memory_format}{compiled}",
            "threads": str(self.hardware.threads),
            "torch": machine["torch"],
        }

    def save(self, folder: Path) -> None:
        """Write the files of a profile folder, and remove a table without rows; without any rows, do nothing."""
        if not self.layer and not self.step:
            return
        self.folder = folder
        for name, rows, columns in ((LAYER, self.layer, LAYER_COLUMNS), (STEP, self.step, STEP_COLUMNS)):
            if rows:
                write_atomically(folder / name, to_csv(rows, columns).encode())
            else:
                (folder / name).unlink(missing_ok=True)
        write_atomically(folder / SUMMARY, markdown(self.facts(), self.step, self.layer, self.machine).encode())
        environment = describe_environment(self.hardware) | {"machine": self.machine}
        write_atomically(folder / ENVIRONMENT, to_json(environment).encode())


def with_batch(config: RunConfig, batch_size: int) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"batch_size": batch_size})})


def measure(profile: Profile, seconds: float, report: TellProgress) -> None:
    """Measure both tables and the machine."""
    num_layers, num_steps = (len(profile.methods) + 1) * len(profile.shapes), len(profile.methods) + 2
    layers_end = 0.97 * num_layers / (num_layers + num_steps)
    measure_layers(profile, seconds, part_of(report, 0.0, layers_end, "layer"))
    costs, failed = without_failing(
        profile.methods,
        profile.failures,
        lambda names: profile_steps(
            partial(RepeatedStep, profile.baseline, profile.data),
            {name: partial(RepeatedStep, profile.configs[name], profile.data) for name in names},
            profile.batch_size,
            profile.hardware.device,
            seconds,
            report=part_of(report, layers_end, 0.97, "step"),
        ),
    )
    failed_cells = [no_figures(name) | {"batch_size": profile.batch_size} for name in failed]
    profile.step = [step_row(profile, cells) for cells in [*(cost.figures() for cost in costs), *failed_cells]]
    report(0.97, "the machine")
    if costs[0].step_ms:
        found = attempt(partial(roofline, profile, costs[0]), profile.hardware.device)
        profile.machine = None if found is None else found.figures()


def roofline(profile: Profile, cost: StepCost) -> Roofline:
    """Measure the machine, and compare the baseline step with it."""
    machine = measure_machine(profile.hardware.device, profile.dtype, MACHINE_SECONDS)
    step = RepeatedStep(profile.baseline, profile.data)
    step()  # the first one creates the optimizer state
    return Roofline(
        machine, count_work(step), cost.median_ms(), profile.hardware.compile, median_interval(cost.step_ms)
    )


def measure_layers(profile: Profile, seconds: float, report: TellProgress) -> None:
    """Fill in the layer table, shape by shape."""
    hardware = profile.hardware
    setting = Setting(
        hardware.device, profile.dtype, hardware.memory_format, hardware.compile, seed=profile.baseline.seed
    )
    for number, shape in enumerate(profile.shapes):
        text = "x".join(map(str, shape))
        begin, end = (at / len(profile.shapes) for at in (number, number + 1))
        here = part_of(report, begin, end, text)

        def measure_at(names: list[str], shape: Shape = shape, report: TellProgress = here) -> list[LayerCost]:
            factories = {name: profile.configs[name].regularizer.build for name in names}
            return profile_layers(factories, shape, setting, seconds, report=report)

        costs, failed = without_failing(profile.methods, profile.failures, measure_at)
        common = {
            "shape": text,
            "dtype": str(profile.dtype).removeprefix("torch."),
            "memory_format": profile.baseline.hardware.memory_format,
            "device": hardware.name(),
            "compile": hardware.compile,
        }
        cells = [*(cost.figures() for cost in costs), *map(no_figures, failed)]
        profile.layer += [ordered(one | common, LAYER_COLUMNS) for one in cells]


def measure_batch_sizes(profile: Profile, seconds: float, search_seconds: float, report: TellProgress) -> None:
    """Fill in the step table with the batch sizes tried, method by method."""
    num_methods = len(profile.methods)
    for number, method in enumerate(profile.methods):
        here = part_of(report, number / num_methods, (number + 1) / num_methods, method)
        try:
            find_batch_size(profile, method, seconds, search_seconds, here)
        except MeasurementFailed as failure:
            if note_failure(profile.failures, failure, [method]) is None:
                raise failure.error from failure.error.__cause__


def find_batch_size(profile: Profile, method: str, seconds: float, search_seconds: float, report: TellProgress) -> None:
    """Add a row for each batch size tried with a method; progress is the share of the time used."""

    def build(batch_size: int) -> RepeatedStep:
        return RepeatedStep(with_batch(profile.configs[method], batch_size), profile.data)

    begun = time.perf_counter()
    report(0.0, f"batch {profile.batch_size}")
    first, device = profile.batch_size, profile.hardware.device
    for cost in batch_sizes(method, build, first, device, seconds, search_seconds):
        profile.step.append(step_row(profile, cost.figures()))
        share = min(1.0, (time.perf_counter() - begun) / search_seconds)
        report(share, f"batch {cost.batch_size}: {cost.status}")


def step_row(profile: Profile, figures: dict[str, Any]) -> dict[str, Any]:
    common = {
        "model": profile.baseline.model.name,
        "precision": profile.hardware.precision,
        "compile": profile.hardware.compile,
        "device": profile.hardware.name(),
    }
    return ordered(figures | common, STEP_COLUMNS)


def ordered(cells: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return a row with every column; None where there is no figure."""
    return {column: cells.get(column) for column in columns}
