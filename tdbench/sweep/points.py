"""What a plan is, whatever its trials are: points, the trials that they need, and what makes it this sweep."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from tdbench.config.contents import Contents
from tdbench.store.rows import TEST_ERROR, Value
from tdbench.sweep.execution import Execution
from tdbench.sweep.experiment import Experiment
from tdbench.sweep.slots import Slots


class Trial(Protocol):
    """One run of a sweep: of tdbench's own training, or of a user's script."""

    @property
    def seed(self) -> int:
        """The seed, which pairs trials."""

    def digest(self) -> str:
        """Return 12 hexadecimal digits that name it."""

    def dump(self) -> dict[str, Any]:
        """Return it as plain data, as it travels to its process."""


@dataclass(frozen=True, eq=False)
class Point:
    """One value of a sweep.

    Attributes:
        values: Swept key to value, as tables show them.
        trials: Seed to the digest of its trial.
        baseline: The point that this one is compared with, None for a baseline and where there is none.
    """

    values: dict[str, Value]
    trials: dict[int, str]
    baseline: "Point | None" = None


@dataclass(frozen=True)
class Plan(ABC):
    """All points, the baselines first, and all trials in the order in which they run: seed by seed."""

    experiment: Experiment
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    trials: Mapping[str, Any]  # of `Trial`

    @property
    def target(self) -> str | None:
        """The module that runs a trial; None: tdbench's own training."""
        return None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what makes this sweep this one, whatever its values, fixed seeds and baseline."""

    @abstractmethod
    def settings_there(self, held: Experiment) -> dict[str, Any]:
        """Return the same of an experiment that a folder holds.

        Raises:
            TdbenchError: It is not one of this kind.
        """

    @abstractmethod
    def contents(self) -> Contents:
        """Return what the settings mean that all trials share: data, and the user's own code."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return what the sweep's own folder is named after, before the swept keys."""

    @abstractmethod
    def subject(self) -> str:
        """Return what the trials share, in a line."""

    @abstractmethod
    def slots(self, execution: Execution) -> Slots:
        """Return the places for the trials.

        Raises:
            TdbenchError: There is no such device.
        """

    @abstractmethod
    def with_threads(self, threads: int | None) -> Self:
        """Return the same plan, its trials with so many CPU threads each; None: as they are."""

    @abstractmethod
    def check(self, waiting: Iterable[Any], slots: Slots, finished: Iterable[Any] = ()) -> None:
        """Check that trials can run at their places, before any does; those that are finished show it for their like.

        Raises:
            TdbenchError: Something is missing.
        """

    @abstractmethod
    def times_left_s(
        self, waiting: tuple[Sequence[Any], Sequence[Any]], finished: Sequence[tuple[Any, float]], slots: Slots
    ) -> tuple[float, float]:
        """Return how long two sets of waiting trials will take, in seconds of the clock; see `preflight`.

        Raises:
            DataError: That cannot be known.
        """

    @abstractmethod
    def check_out(self, path: Path) -> None:
        """Check that a sweep's folder does not lie where its results would do harm.

        Raises:
            ConfigError: It does.
        """

    def target_pct(self, point: Point) -> float | None:
        """Return the share of units that a point's method was solved to drop; None where it was not."""
        return None

    @property
    def has_test_images(self) -> bool:
        """Whether the outcomes of the trials are of the same test images."""
        return False

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that sweeps share which differ by their values, seeds or baseline only."""
        settings = self.settings()
        del settings["smallest"]
        for name, value in {"metric": TEST_ERROR, "design": "fixed"}.items():
            if settings[name] == value:  # as sweeps are named that know of no other
                del settings[name]
        if "design" in settings:  # another one is refused in the same folder, not made room for in a new one
            settings["design"] = "sequential"
        text = json.dumps([settings, self.contents(), self.experiment.arms], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def tree(self) -> dict[str, Any]:
        """Return what `sweep.yaml` holds: the experiment, which `tdbench ablate sweep.yaml` repeats."""
        tree = {key: value for key, value in self.experiment.model_dump(mode="json").items() if value}
        if self.experiment.first_look is not None and self.experiment.seeds == tuple(range(len(self.experiment.seeds))):
            tree["seeds"] = self.experiment.design
            del tree["first_look"]
        return tree


def declared(experiment: Experiment) -> dict[str, Any]:
    """Return what an experiment declares of how it is looked at."""
    found = {name: getattr(experiment, name) for name in ("metric", "design", "smallest")}
    if experiment.first_look is not None and experiment.seeds[0] != 0:
        found["seeds"] = list(experiment.seeds)
    return found


def baseline_names(points: Sequence[Point]) -> list[str]:
    """Return the names by which a baseline may be called; that of a grid has all its values: `3,0.1`."""
    return [",".join(map(str, point.values.values())) for point in points]


def found_baseline(experiment: Experiment, points: Sequence[Point]) -> Point | None:
    """Return the point that a baseline's name means, such as `3`, `k=3`, `3.0` or `k=3,p=0.1`; None: there is none."""
    wanted = experiment.baseline
    for point, name in zip(points, baseline_names(points), strict=True):
        full = ",".join(f"{key}={value}" for key, value in point.values.items())
        if wanted in (name, full):
            return point
    parts = wanted.split(",")
    for point in points:
        told = [part if "=" in part else f"{key}={part}" for key, part in zip(point.values, parts, strict=False)]
        own = [f"{key}={value}" for key, value in point.values.items()]
        if len(parts) == len(own) and list(map(as_number, told)) == list(map(as_number, own)):
            return point
    return None


def as_number(text: str) -> tuple[str, float | str]:
    """Return `KEY=VALUE` as a key and a number, where it is one."""
    key, _, value = text.partition("=")
    try:
        return key, float(value)
    except ValueError:
        return key, value


def seed_by_seed(experiment: Experiment, points: Sequence[Point], trials: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trials in the order in which they run."""
    return {digest: trials[digest] for seed in experiment.seeds for point in points for digest in [point.trials[seed]]}
