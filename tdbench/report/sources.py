"""A sweep, a run and a profile as a report sees them: their rows, and what follows from these."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tdbench.errors import FolderError
from tdbench.report.rows import Row, number, read_rows
from tdbench.store.folders import METRICS, Predictions, RunFolder, SweepFolder
from tdbench.store.rows import TEST_ERROR, TrialState

BASELINES = ("baseline", "no baseline")
_METRICS = {
    "test_error_pct_bn": "test error %, BatchNorm re-estimated",
    "test_error_pct_ema": "test error %, average of the weights",
}


@dataclass(frozen=True)
class SweepSource:
    """A sweep, from its tables.

    Attributes:
        path: Its folder.
        experiment: What was swept, as `sweep.yaml` holds it.
        summary: The rows of `summary.csv`.
        trials: The rows of `trials.csv`.
        keys: The swept keys.
    """

    path: Path
    experiment: Mapping[str, Any]
    summary: list[Row]
    trials: list[Row]
    keys: list[str]

    @property
    def name(self) -> str:
        """What the sweep is called: its title, or its folder."""
        return str(self.experiment.get("title") or self.path.name)

    @property
    def metric(self) -> str:
        """What the verdicts are about."""
        return self.summary[0].get("metric") or TEST_ERROR if self.summary else TEST_ERROR

    @property
    def metric_words(self) -> str:
        """What the verdicts are about, as a heading or an axis says it."""
        return _METRICS.get(self.metric) or self.metric.replace("_pct", " %").replace("_", " ")

    @property
    def own(self) -> tuple[str, str, str, str]:
        """The columns of `summary.csv` with the metric's mean, deviation and interval."""
        if self.metric == TEST_ERROR:
            return "test_error_pct_mean", "test_error_pct_std", "ci95_low", "ci95_high"
        return "metric_mean", "metric_std", "metric_ci95_low", "metric_ci95_high"

    @property
    def unit(self) -> str:
        """What a difference of the metric is counted in."""
        return "points" if "_pct" in self.metric else self.metric

    @property
    def design(self) -> str:
        """How seeds were looked at."""
        return self.summary[0].get("design") or "fixed" if self.summary else "fixed"

    @property
    def compared(self) -> list[Row]:
        """The rows that are compared with a baseline."""
        return [row for row in self.summary if row["verdict"] not in BASELINES]

    def label(self, row: Row) -> str:
        """Return the value of a row of either table, in words; a baseline of the same value is another one."""
        return self._labels[id(row)]

    @cached_property
    def _labels(self) -> dict[int, str]:
        """What each row of both tables is called, by identity.

        Where the baseline's value is that of what is compared with it, as over sizes of the training set, the tables
        hold it twice: `trials.csv` has its trials in the order of the rows of `summary.csv`, each with its seeds.
        """
        names, rows_of = {}, defaultdict[str, list[str]](list)
        counts = Counter(map(self._value, self.summary))
        for row in self.summary:
            value = self._value(row)
            names[id(row)] = f"{value} (baseline)" if counts[value] > 1 and row["verdict"] in BASELINES else value
            rows_of[value].append(names[id(row)])
        place, last, seen = Counter[str](), None, set[str]()
        for trial in self.trials:
            value = self._value(trial)
            if value != last or trial["seed"] in seen:
                place[value], last, seen = place[value] + 1, value, set()
            seen.add(trial["seed"])
            own = rows_of[value] or [value]
            names[id(trial)] = own[min(place[value], len(own)) - 1]
        return names

    def _value(self, row: Row) -> str:
        values = [row[key] for key in self.keys]
        return values[0] if len(set(values)) == 1 else " · ".join(values)

    @cached_property
    def _trials_of(self) -> dict[str, list[Row]]:
        """The trials of each row of the summary, by its label."""
        trials = defaultdict[str, list[Row]](list)
        for trial in self.trials:
            trials[self.label(trial)].append(trial)
        return trials

    def baseline_of(self, row: Row) -> Row | None:
        """Return the row that another one is compared with: the baseline that has most values in common with it."""
        baselines = [one for one in self.summary if one["verdict"] == "baseline"]
        return max(baselines, key=lambda one: sum(one[key] == row[key] for key in self.keys), default=None)

    def by_seed(self, row: Row, name: str) -> dict[int, float]:
        """Return seed to a figure of the finished trials of a row."""
        figures = {int(one["seed"]): number(one.get(name)) for one in self._trials_of.get(self.label(row), ())}
        return {seed: figure for seed, figure in figures.items() if not math.isnan(figure)}

    def pairs(self, row: Row, name: str | None = None) -> dict[int, float]:
        """Return seed to the difference of a figure from the baseline's, of the seeds that count."""
        name = self.column if name is None else name
        baseline = self.baseline_of(row)
        ours, theirs = self.by_seed(row, name), {} if baseline is None else self.by_seed(baseline, name)
        shared = [seed for seed in ours if seed in theirs][: int(row["n"] or 0)]
        return {seed: ours[seed] - theirs[seed] for seed in shared}

    def num_pairs(self, row: Row) -> int:
        """Return how many seeds a row shares with its baseline, which tables of earlier releases do not tell."""
        return int(row.get("num_pairs") or len(self.pairs(row)) or row["n"] or 0)

    def contradictions(self) -> Iterator[str]:
        """Yield in words which figures of the summary are not those of its trials, as where one was edited by hand."""
        for row in self.summary:
            pairs, mean = [*self.pairs(row).values()], [*self.by_seed(row, self.column).values()]
            told = {"delta_vs_baseline": pairs, self.own[0]: mean if len(mean) == int(row["n"] or 0) else []}
            for name, figures in told.items():
                figure = number(row.get(name))
                if not figures or math.isnan(figure):
                    continue
                if not math.isclose(statistics.fmean(figures), figure, rel_tol=1e-6, abs_tol=1e-6):
                    yield (
                        f"summary.csv says {name} {figure:g} of {self.label(row)}, and trials.csv gives "
                        f"{statistics.fmean(figures):g}"
                    )

    @property
    def column(self) -> str:
        """The column of `trials.csv` with the metric."""
        return self.metric if not self.trials or self.metric in self.trials[0] else f"metric.{self.metric}"

    @property
    def done(self) -> list[Row]:
        """The trials that are done."""
        return [trial for trial in self.trials if trial["status"] == TrialState.DONE]

    def run(self, trial: Row) -> "RunSource":
        """Return the run of a trial, of whose folder files may be missing."""
        return RunSource(SweepFolder(self.path).trial(trial["trial"]).path)

    @cached_property
    def environments(self) -> list[Mapping[str, Any]]:
        """What the trials that are done ran on, where that is known."""
        return [found for trial in self.done if (found := self.run(trial).environment)]


@dataclass(frozen=True)
class RunSource:
    """A run, from its folder."""

    path: Path

    @cached_property
    def metrics(self) -> list[Row]:
        """The rows of `metrics.csv`; none where it is not there."""
        with suppress(FolderError):
            return read_rows(self.path / METRICS)
        return []

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """What it ran on; empty where that is not known."""
        return RunFolder(self.path).read_environment()

    @cached_property
    def predictions(self) -> Predictions | None:
        """The outcome of each test image; None where that is not known."""
        return RunFolder(self.path).read_predictions()

    @property
    def environments(self) -> list[Mapping[str, Any]]:
        """What it ran on, as of a sweep's trials."""
        return [self.environment] if self.environment else []


@dataclass(frozen=True)
class ProfileSource(RunSource):
    """A profile, from its folder; figures are numbers, and None where there are none.

    Attributes:
        layer, step: The rows of its two tables.
    """

    layer: Sequence[Mapping[str, Any]]
    step: Sequence[Mapping[str, Any]]
