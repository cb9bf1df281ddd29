"""What a sweep would do: the answer of a dry run."""

from dataclasses import dataclass
from typing import Any

from tdbench.sweep.runner import Sweep


@dataclass(frozen=True)
class Outlook:
    """What a sweep would do.

    Attributes:
        trials: How many different ones there are.
        done: Those that are finished.
        to_run: Those that would run now.
        time_left_s: Seconds that they will take, about; None: unknown.
        rows: One for each value and seed: the trial, its state, and whether it is the baseline's.
        why_unknown: Why the time is.
    """

    trials: int
    done: int
    to_run: int
    time_left_s: float | None
    rows: list[dict[str, Any]]
    why_unknown: str | None = None

    def _repr_html_(self) -> str:
        from pandas import DataFrame

        return DataFrame(self.rows).to_html(index=False)


def outlook_of(sweep: Sweep, missing: list[str], left_s: float | None, why_unknown: str | None) -> Outlook:
    """Return the outlook of a sweep whose missing trials take about `left_s` seconds."""
    baselines = {digest for point in sweep.plan.points if point.baseline for digest in point.baseline.trials.values()}
    rows = [
        {"trial": digest, "status": sweep.records[digest].status.value, "seed": seed}
        | dict(point.values)
        | {"baseline": "yes" if digest in baselines else ""}
        for point in sweep.plan.points
        for seed, digest in point.trials.items()
    ]
    time_left_s = None if left_s is None else round(left_s, 1)
    return Outlook(len(sweep.records), len(sweep.done()), len(missing), time_left_s, rows, why_unknown)
