"""The plan and the outcome of a sweep as a person reads them on a terminal, wide or narrow."""

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from tdbench.cli.sweep_terminal import names
from tdbench.cli.terminal import clock, is_off_target, say
from tdbench.results.store import PLOT_PNG, PLOT_SVG, SUMMARY_TABLE, SUMMARY_TEXT, SWEEP, TRIALS_TABLE, label
from tdbench.sweep.runner import Sweep
from tdbench.sweep.worker import LOG

_COLUMNS = {  # column of summary.csv -> heading, form
    "n": ("n", "{}"),
    "test_error_pct_mean": ("test\nerror %", "{:.2f}"),
    "ci95": ("95 %\ninterval", "{}"),
    "delta_vs_baseline": ("difference", "{:+.2f}"),
    "delta_ci95": ("95 %\ninterval", "{}"),
    "p_holm": ("p\n(Holm)", "{:.3f}"),
    "verdict": ("verdict", "{}"),
    "dropped_pct": ("dropped\n%", "{:.3f}"),
    "train_img_per_s": ("images\n/s", "{:,.0f}"),
}
_FIRST_TO_GO = ("train_img_per_s", "ci95", "p_holm", "dropped_pct")  # where the terminal is narrow; the files keep them


def print_plan(sweep: Sweep, missing: list[str], left_s: float | None, *, quiet: bool, json: bool) -> None:
    """Print the trials, how many are done, and the time that is left."""
    baselines = {digest for point in sweep.plan.points if point.baseline for digest in point.baseline.trials.values()}
    rows = [
        {"trial": row["trial"], "status": row["status"], "seed": row["seed"]}
        | {key: row[key] for key in sweep.plan.keys}
        | {"baseline": "yes" if row["trial"] in baselines else ""}
        for row in sweep.trial_rows()
    ]
    counts = {
        "trials": len(sweep.records),
        "done": len(sweep.done()),
        "to_run": len(missing),
        "time_left_s": None if left_s is None else round(left_s, 1),
    }
    if json:
        say(json_module.dumps(counts | {"rows": rows}, indent=2, ensure_ascii=False))
        return
    if not quiet:
        print_rows(rows)
    say(
        f"{counts['trials']} different trials, {counts['done']} done, {counts['to_run']} to run, "
        f"{'an unknown time' if left_s is None else f'about {clock(left_s)}'} left; nothing was trained"
    )


def print_summary(sweep: Sweep) -> None:
    """Print the closing table, what failed, and where the files are."""
    rows = sweep.summary_rows()
    print_rows([{key: row[key] for key in sweep.plan.keys} | cells(row) for row in rows])
    unfinished, called = sweep.unfinished(), names(sweep.plan)
    for digest, record in unfinished.items():
        say(f"{called[digest]}: {record['status']}, {record.get('error') or 'to be run'}")
    if any(record["status"] in ("failed", "diverged") for record in unfinished.values()):
        say("--retry-failed runs these again")
    logs = [sweep.folder.trial(digest) / LOG for digest in unfinished]
    for log in [log for log in logs if log.exists() and log.stat().st_size]:
        say(f"more in {log}")
    for note in off_target(sweep, rows):
        say(note)
    written = (SUMMARY_TABLE, SUMMARY_TEXT, TRIALS_TABLE, PLOT_PNG, PLOT_SVG, SWEEP)
    say(f"files in {sweep.folder.path}: {' '.join(name for name in written if (sweep.folder / name).exists())}")


def off_target(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which values have dropped more than a tenth more or less than they were solved for."""
    notes = []
    for point, row in zip(sweep.plan.points, rows, strict=True):
        target = sweep.plan.trials[next(iter(point.trials.values()))].regularizer.match  # of `none` there is none
        if is_off_target(target, row["dropped_pct"]):
            value = ", ".join(label(value) for value in point.values.values())
            dropped = f"dropped {row['dropped_pct']:.3g} %, not the {target:g} % that were asked for"
            notes.append(f"note: {value} {dropped}; more steps bring it nearer")
    return notes


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the summary as people read it."""
    pairs = {"ci95": ("ci95_low", "ci95_high"), "delta_ci95": ("delta_ci95_low", "delta_ci95_high")}
    intervals = {
        name: None if row[low] is None else f"{row[low]:.2f} to {row[high]:.2f}" for name, (low, high) in pairs.items()
    }
    values = {**row, **intervals}
    return {name: "" if values[name] is None else form.format(values[name]) for name, (_, form) in _COLUMNS.items()}


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table, without empty columns, and without those wanted least where the terminal is too narrow."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    names = [name for name in rows[0] if any(str(row[name]) for row in rows)]
    for name in _FIRST_TO_GO:
        if sum(least_width(name, rows) + 3 for name in names) + 1 > console.width and name in names:
            names.remove(name)
    table = Table()
    for name in names:
        justify: JustifyMethod = "left" if name in ("verdict", "trial", "status") else "right"
        table.add_column(title_of(name), justify=justify, no_wrap=is_figure(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[name])) for name in names))
    console.print(table)


def title_of(name: str) -> str:
    """Return what stands above a column."""
    return _COLUMNS.get(name, (name, ""))[0]


def is_figure(name: str) -> bool:
    """Return whether a column's cells must stay on one line."""
    return name in _COLUMNS and name != "verdict"


def least_width(name: str, rows: list[dict[str, Any]]) -> int:
    """Return the width that a column needs for no figure and no word to be broken."""
    cells = [str(row[name]) for row in rows]
    words = cells if is_figure(name) else [word for cell in cells for word in cell.split()]
    return max(len(part) for part in [*words, *title_of(name).split("\n")])


def closing_line(sweep: Sweep) -> str:
    """Return the outcome in one line."""
    rows = sweep.summary_rows()
    verdicts = [row["verdict"].partition(" (")[0] for row in rows if row["verdict"] != "baseline"]
    counted = ", ".join(f"{verdicts.count(verdict)} × {verdict}" for verdict in dict.fromkeys(verdicts))
    unfinished = sweep.unfinished().values()
    reasons = dict.fromkeys(f"{record['status']}: {record.get('error') or 'to be run'}" for record in unfinished)
    missing = f", {len(unfinished)} trials not done ({'; '.join(reasons)})" if unfinished else ""
    return f"{len(sweep.done())} trials done{missing}: {counted or 'no verdict'}; {sweep.folder.path}"
