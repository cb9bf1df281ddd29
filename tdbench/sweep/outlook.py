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
        to_run: Those that would run now; of a sequential design those of its next look, which may be the last.
        time_left_s: Seconds that they will take, about; None: unknown.
        rows: One for each value and seed: the trial, its state, and whether it is the baseline's.
        why_unknown: Why the time is.
        to_run_at_most, time_left_at_most_s: The same, if no value were decided before the last look.
    """

    trials: int
    done: int
    to_run: int
    time_left_s: float | None
    rows: list[dict[str, Any]]
    why_unknown: str | None = None
    to_run_at_most: int = 0
    time_left_at_most_s: float | None = None

    def _repr_html_(self) -> str:
        from pandas import DataFrame

        return DataFrame(self.rows).to_html(index=False)


def outlook_of(
    sweep: Sweep, missing: list[str], at_most: int, left_s: tuple[float | None, float | None], why_unknown: str | None
) -> Outlook:
    """Return the outlook of a sweep.

    Args:
        sweep: The sweep.
        missing: The trials that would run now.
        at_most: How many it may come to.
        left_s: The seconds of both, about.
        why_unknown: Why they are unknown.
    """
    baselines = {digest for point in sweep.plan.points if point.baseline for digest in point.baseline.trials.values()}
    rows = [
        {"trial": digest, "status": sweep.records[digest].status.value, "seed": seed}
        | dict(point.values)
        | {"baseline": "yes" if digest in baselines else ""}
        for point in sweep.plan.points
        for seed, digest in point.trials.items()
    ]
    now_s, most_s = (None if seconds is None else round(seconds, 1) for seconds in left_s)
    return Outlook(len(sweep.records), len(sweep.done()), len(missing), now_s, rows, why_unknown, at_most, most_s)
