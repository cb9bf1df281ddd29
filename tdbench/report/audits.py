"""What a report says of an audit: the nominal share of each site, what was found there, and what is wrong."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tdbench.report.rows import Row, check_numbers, number, read_rows
from tdbench.report.tables import Table
from tdbench.report.words import between, shown
from tdbench.store.folders import AUDIT

NEEDED = ("site", "map", "nominal_pct", "dropped_pct", "ci95_low", "ci95_high", "n", "faults", "notes")
TEXT = ("trial", "value", "site", "map", "effective_block", "eval_identity", "gradient", "random", "batch_norm")


def read_audit(folder: Path) -> list[Row]:
    """Return the rows of a folder's `audit.csv`; none where nothing was audited there.

    Raises:
        FolderError: The table is damaged.
    """
    if not (folder / AUDIT).exists():
        return []
    rows = read_rows(folder / AUDIT, NEEDED)
    check_numbers(folder / AUDIT, rows, (*TEXT, "faults", "notes"))
    return rows


def audit_table(rows: Sequence[Row], values: Sequence[str] = ()) -> Table:
    """Return the shares of each site; of a sweep with the value that a row is of."""
    headings = [*["value"] * bool(values), "site", "map", "nominal %", "dropped %", "its 95 % interval", "batches"]
    cells = []
    for place, row in enumerate(rows):
        low, high = number(row["ci95_low"]), number(row["ci95_high"])
        shares = [shown(number(row[name]), ".3f") for name in ("nominal_pct", "dropped_pct")]
        site = [row["site"], row["map"].replace("x", "×")]
        cells.append([*values[place : place + 1], *site, *shares, between(low, high, ".3f"), row["n"] or "—"])
    caption = (
        "The audit before training: share of units dropped at each site, at full strength, t intervals; one within "
        "10 % of the nominal share is taken for it. Over a run, a strength that rises with the steps drops less."
    )
    return Table("audit", caption, headings, cells, rows)


def findings_of(rows: Sequence[Row], values: Sequence[str] = ()) -> Iterator[str]:
    """Yield the faults and then the notes of an audit, a line each, with the sites that have them."""
    for level in ("faults", "notes"):
        sites: dict[tuple[str, str], list[str]] = {}
        for place, row in enumerate(rows):
            if row[level]:
                sites.setdefault(("".join(values[place : place + 1]), row[level]), []).append(row["site"])
        for (value, text), where in sites.items():
            yield f"{level.removesuffix('s')}{f': {value}' if value else ''}: {text} at {', '.join(where)}"
