"""What the trials of a plan have found so far, as the statistics take it: who is to run by now, and the summary."""

import hashlib
import statistics
from collections.abc import Mapping, Set
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdbench.store.folders import SweepFolder
from tdbench.store.rows import SECONDARY, TEST_ERROR, TEST_ERROR_BN, RunResult, SummaryRow, TrialState
from tdbench.sweep.points import Plan, Point

if TYPE_CHECKING:
    from tdbench.sweep.judging import Evidence

CODE = ("findings", "inference", "judging", "sequential", "verdicts")  # that a summary follows from
NO_RESULT = {TrialState.WAITING, TrialState.KILLED}
FAILED = {TrialState.FAILED, TrialState.DIVERGED}

Records = Mapping[str, RunResult]  # digest to what became of the trial


class Findings:
    """Reads the results of a plan's trials as evidence; loads numpy and SciPy where they are needed, not before."""

    def __init__(self, plan: Plan, folder: SweepFolder) -> None:
        self.plan, self.folder = plan, folder
        self._wrong: dict[str, Any] = {}  # digest to which test images were wrong, None where that is not known

    def forget(self, digest: str) -> None:
        """Look at a trial anew: it has been run again."""
        self._wrong.pop(digest, None)

    def source(self, records: Records) -> list[Any]:
        """Return all that the summary follows from, as plain data: how it is worked out, and from what."""
        code = [Path(__file__).with_name(f"{name}.py").read_bytes() for name in CODE]
        experiment = self.plan.experiment
        declared = [experiment.design, experiment.smallest, experiment.metric, list(experiment.looks)]
        method = [hashlib.sha256(b"".join(code)).hexdigest(), version("scipy"), declared]
        number = {point: number for number, point in enumerate(self.plan.points)}
        done = {digest: one for digest, one in records.items() if one.is_done}
        return method + [
            [
                dict(point.values),
                None if point.baseline is None else number[point.baseline],
                [[seed, asdict(done[digest])] for seed, digest in point.trials.items() if digest in done],
                [seed for seed, digest in point.trials.items() if records[digest].status in FAILED],
            ]
            for point in self.plan.points
        ]

    def asked_for(self, records: Records, again: Set[TrialState]) -> list[str]:
        """Return the trials that the design asks for by now, in their order: all of a fixed one.

        Args:
            records: What became of each trial.
            again: States in which a trial is to be run again, so that a look waits for it.
        """
        experiment = self.plan.experiment
        if experiment.first_look is None:
            return list(records)
        from tdbench.sweep.judging import seeds_wanted

        wanted = seeds_wanted(self._evidence(records, again))
        chosen = {point.trials[seed] for point in self.plan.points for seed in experiment.seeds[: wanted[point]]}
        return [digest for digest in records if digest in chosen]

    def summary(self, records: Records) -> tuple[SummaryRow, ...]:
        """Return the rows of the summary, the baselines first."""
        from tdbench.sweep.verdicts import summarise

        found = replace(self._evidence(records, NO_RESULT), outcomes=self._outcomes(records))
        return tuple(
            replace(
                row,
                values=point.values,
                dropped_pct=mean_of(records, point, "dropped_pct"),
                train_img_per_s=mean_of(records, point, "train_img_per_s"),
            )
            for point, row in summarise(found).items()
        )

    def _outcomes(self, records: Records) -> dict[Point, dict[int, Any]]:
        """Return which test images were wrong, by point and seed, of the trials that tell."""
        if not self.plan.has_test_images:
            return {}  # as where each seed has others, so that the seeds' interval is for new ones already
        compared = {one for point in self.plan.points if point.baseline for one in (point, point.baseline)}
        digests = {digest for point in compared for digest in point.trials.values() if records[digest].is_done}
        for digest in digests - self._wrong.keys():
            predictions = self.folder.trial(digest).read_predictions()
            self._wrong[digest] = None if predictions is None else predictions.label != predictions.predicted
        return {
            point: {seed: wrong for seed, one in point.trials.items() if (wrong := self._wrong.get(one)) is not None}
            for point in compared
        }

    def _evidence(self, records: Records, again: Set[TrialState]) -> "Evidence[Point]":
        from tdbench.sweep.judging import Evidence
        from tdbench.sweep.sequential import Design

        experiment, points = self.plan.experiment, self.plan.points
        ended = {
            point: frozenset(seed for seed, digest in point.trials.items() if records[digest].status not in again)
            for point in points
        }
        errors, errors_bn, figures = (
            {point: field_of(records, point, name, ended[point]) for point in points}
            for name in (TEST_ERROR, TEST_ERROR_BN, experiment.metric)
        )
        design = None
        if experiment.first_look is not None:
            design = Design(
                experiment.first_look, len(experiment.seeds), experiment.smallest, experiment.more_is_better
            )
        return Evidence(
            errors=errors,
            baselines={point: point.baseline for point in points if point.baseline is not None},
            errors_bn=errors_bn,
            metric=experiment.metric,
            figures=figures,
            design=design,
            ended=ended,
            seeds=experiment.seeds,
            smallest=experiment.smallest,
            looks=experiment.looks,
            more_is_better=experiment.more_is_better,
            in_points="_pct" in experiment.metric,
            secondary={
                name: {point: field_of(records, point, name, ended[point]) for point in points} for name in SECONDARY
            },
        )


def field_of(records: Records, point: Point, name: str, ended: frozenset[int]) -> dict[int, float]:
    """Return seed to a field of the result, of the trials of a point that are done and have it."""
    done = {seed: one for seed in ended if (one := records[point.trials[seed]]).is_done}
    return {seed: value for seed, result in done.items() if (value := result.figure(name)) is not None}


def mean_of(records: Records, point: Point, name: str) -> float | None:
    """Return the mean of a field of the results of a point that have it."""
    values = field_of(records, point, name, frozenset(point.trials)).values()
    return statistics.fmean(values) if values else None
