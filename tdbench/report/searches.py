"""What a report says of a search: its candidates, and the importance of its knobs. The confirmation is a sweep."""

import math
from collections.abc import Sequence
from pathlib import Path

from tdbench.report.charts import Picture, scatter
from tdbench.report.reading import Row, number, read_rows
from tdbench.report.tables import Table
from tdbench.report.words import Section, shown

FIXED = (
    *("candidate", "regularizer", "status", "n", "valid_error_pct_mean", "valid_error_pct_std", "delta_vs_baseline"),
    *("dropped_pct", "wall_s", "error"),
)


def sections_of_search(path: Path) -> list[Section]:
    """Return what there is to say of a search.

    Raises:
        FolderError: Its table is missing, or cannot be read.
    """
    rows = read_rows(path / "candidates.csv")
    knobs = [name for name in (rows[0] if rows else {}) if name not in FIXED]
    done = [row for row in rows if row["delta_vs_baseline"]]
    done.sort(key=lambda row: number(row["delta_vs_baseline"]))
    lines = [
        [
            f"{row['regularizer']} {row['candidate']}",
            *(row[knob] or "—" for knob in knobs),
            row["n"],
            shown(number(row["valid_error_pct_mean"])),
            shown(number(row["delta_vs_baseline"]), "+.2f"),
        ]
        for row in done
    ]
    n = max((int(row["n"] or 0) for row in rows), default=0)
    words = [
        f"{len(done)} of {len(rows) - 1} candidates have a result, n = {n} runs each on images held out of the "
        "training images. These figures choose, they claim nothing: the best of many looks better than it is."
    ]
    caption = f"Differences to the baseline on the held-out images in points, n = {n} runs each."
    table = Table("candidates", caption, ["candidate", *knobs, "n", "held-out error %", "difference"], lines)
    found = [Section("The candidates", words, [one for knob in knobs if (one := against(knob, done))], [table])]
    if (path / "importance.csv").exists() and len(knobs) > 1:
        told = [
            [row["param"], row["regularizer"], shown(number(row["importance"]))]
            for row in read_rows(path / "importance.csv")
        ]
        caption = "Share of the variation between candidates that a knob explains (fANOVA)."
        found.append(Section("Importance", tables=[Table("importance", caption, ["knob", "of", "importance"], told)]))
    return found


def against(knob: str, rows: Sequence[Row]) -> Picture | None:
    """Return the candidates' differences over one knob, where that is a number."""
    points = {
        row["candidate"]: (number(row[knob]), number(row["delta_vs_baseline"]), math.nan)
        for row in rows
        if not math.isnan(number(row[knob]))
    }
    if len(points) < 3:
        return None
    caption = "Each candidate, by its number; less is better. Held-out images."
    return scatter(points, knob, "difference (points)", f"Differences of the candidates over {knob}", caption)
