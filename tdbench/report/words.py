"""What the sections of a report share: how a section is put together, and how a figure is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tdbench.report.charts import Picture
from tdbench.report.reading import Row, SweepSource
from tdbench.report.tables import Table

DECIDED = ("helps", "hurts", "equivalent")
MOST_CURVES, MOST_CLASSES = 8, 40


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading, and below it what there is of words, pictures and tables, in this order."""

    title: str
    words: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()  # a list at the end
    code: Sequence[str] = ()


def shown(x: float, form: str = ".2f") -> str:
    """Return a figure with a proper minus sign; a dash where there is none."""
    return "—" if math.isnan(x) else format(x, form).replace("-", "−")


def form_of(sweep: SweepSource) -> str:
    """Return the form of a difference of a sweep's metric."""
    return "+.2f" if "_pct" in sweep.metric else "+.3g"


def n_of(rows: Sequence[Row]) -> str:
    """Return the seeds of some rows in words."""
    counts = [int(row["n"] or 0) for row in rows]
    fewest, most = min(counts, default=0), max(counts, default=0)
    return f"n = {most} seeds" if fewest == most else f"n = {fewest} to {most} seeds"
