"""The plan and the outcome of a sweep as a person reads them on a terminal, wide or narrow."""

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from tdbench.cli.console import console
from tdbench.cli.output import say
from tdbench.cli.sweep_terminal import trial_names
from tdbench.cli.terminal import clock, is_off_target
from tdbench.store.files import as_text, counted
from tdbench.store.folders import (
    AUDIT,
    LOG,
    PLOT_PDF,
    PLOT_PNG,
    PLOT_SVG,
    SUMMARY_TABLE,
    SUMMARY_TEXT,
    SWEEP,
    TRIALS_TABLE,
)
from tdbench.store.rows import Decision, SummaryRow, TrialState
from tdbench.sweep.columns import Column, telling, value_words
from tdbench.sweep.outlook import Outlook
from tdbench.sweep.runner import Sweep, Tables
from tdbench.sweep.tables import why_without_result

if TYPE_CHECKING:
    from tdbench.sweep.tune.outlook import SearchOutlook

TO_BE_RUN = "to be run"


def said_as_json(outlook: "Outlook | SearchOutlook", *, json: bool) -> bool:
    """Print an outlook as JSON if that is asked for, and return whether it was; a note says why its time is unknown."""
    if outlook.why_unknown is not None:
        typer.echo(f"tdbench: note: the time that is left is unknown: {outlook.why_unknown}", err=True)
    if json:
        told = asdict(outlook)
        told.pop("why_unknown")
        say(json_module.dumps(told, indent=2, ensure_ascii=False))
    return json


def print_outlook(outlook: Outlook, *, quiet: bool, json: bool) -> None:
    """Print the trials, how many are done, and the time that is left."""
    if said_as_json(outlook, json=json):
        return
    rows = outlook.rows
    if not quiet:
        names = [name for name in rows[0] if any(str(row[name]) for row in rows)]
        table = Table()
        for name in names:
            table.add_column(name, justify="left" if name in ("trial", "status") else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(row[name])) for name in names))
        console().print(table)
    least, most = map(length, (outlook.time_left_s, outlook.time_left_at_most_s))
    todo = f"{outlook.to_run} to run, {least} left"
    if outlook.to_run_at_most > outlook.to_run:
        todo = (
            f"{outlook.to_run} to run until the next look, {least} left; if no value is decided before the last one, "
            f"{outlook.to_run_at_most} to run, {most}"
        )
    say(f"{outlook.trials} different trials, {outlook.done} done, {todo}; nothing was trained")


def length(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"about {clock(seconds)}"


def show_summary(sweep: Sweep, tables: Tables, *, quiet: bool, json: bool) -> None:
    if json:
        say(json_module.dumps([row.cells() for row in tables.summary], indent=2, ensure_ascii=False))
    elif quiet:
        say(sweep_line(sweep, tables))
    else:
        print_outcome(sweep, tables)


def print_outcome(sweep: Sweep, tables: Tables) -> None:
    """Print the closing table, what failed, and where the files are."""
    print_summary(tables.summary, sweep.plan.keys)
    unfinished, named = sweep.unfinished(), trial_names(sweep.plan)
    waiting = [digest for digest, result in unfinished.items() if result.status is TrialState.WAITING]
    for digest, result in unfinished.items():
        if result.status is not TrialState.WAITING:
            say(f"{named[digest]}: {result.status}, {result.error or TO_BE_RUN}")
    if waiting:
        say(f"{counted(len(waiting), 'trial')} {TO_BE_RUN}")
    if any(result.status in (TrialState.FAILED, TrialState.DIVERGED) for result in unfinished.values()):
        say("--retry-failed runs these again")
    logs = [sweep.folder.trial(digest) / LOG for digest in unfinished]
    for log in [log for log in logs if log.exists() and log.stat().st_size]:
        say(f"more in {log}")
    for note in off_target(sweep, tables.summary):
        say(note)
    written = (SUMMARY_TABLE, SUMMARY_TEXT, TRIALS_TABLE, PLOT_PNG, PLOT_SVG, PLOT_PDF, SWEEP, AUDIT)
    say(f"files in {sweep.folder.path}: {' '.join(name for name in written if (sweep.folder / name).exists())}")


def off_target(sweep: Sweep, rows: Sequence[SummaryRow]) -> list[str]:
    """Return which values have dropped more than a tenth more or less than they were solved for."""
    notes = []
    for point, row in zip(sweep.plan.points, rows, strict=True):
        target = sweep.plan.target_pct(point)
        if is_off_target(target, row.dropped_pct):
            dropped = f"dropped {row.dropped_pct:.3g} %, not the {target:g} % that were asked for"
            notes.append(f"note: {value_words(point.values)} {dropped}; more steps bring it nearer")
    return notes


def print_summary(rows: Sequence[SummaryRow], keys: Sequence[str]) -> None:
    """Print the summary, without empty columns, and without those wanted least where the terminal is too narrow."""
    screen, columns = console(), telling(rows)
    values = {key: [as_text(row.values[key]) for row in rows] for key in keys}
    taken = sum(max(map(len, [key, *words(cells)])) + 3 for key, cells in values.items())
    for column in sorted((one for one in columns if one.goes), key=lambda one: one.goes):
        if taken + sum(least_width(one, rows) + 3 for one in columns) + 1 > screen.width:
            columns.remove(column)
    table = Table()
    for key in keys:
        table.add_column(key, justify="right", overflow="fold")
    for column in columns:
        figure = column.is_figure
        table.add_column(column.heading, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(Text(values[key][number]) for key in keys), *(Text(one.cell(row)) for one in columns))
    screen.print(table)


def least_width(column: Column, rows: Sequence[SummaryRow]) -> int:
    """Return the width that a column needs for no figure and no word to be broken."""
    cells = [column.cell(row) for row in rows]
    parts = cells if column.is_figure else words(cells)
    return max(len(part) for part in [*parts, *column.heading.split("\n")])


def words(cells: Sequence[str]) -> list[str]:
    return [word for cell in cells for word in cell.split()]


def sweep_line(sweep: Sweep, tables: Tables) -> str:
    """Return the outcome of a sweep in one line."""
    decisions = [row.decision for row in tables.summary if row.decision is not Decision.BASELINE]
    counted = ", ".join(f"{decisions.count(one)} × {one}" for one in dict.fromkeys(decisions))
    unfinished = sweep.unfinished().values()
    reasons = dict.fromkeys(
        why_without_result(result) if result.error else f"{result.status}: {TO_BE_RUN}" for result in unfinished
    )
    missing = f", {len(unfinished)} trials not done ({'; '.join(reasons)})" if unfinished else ""
    return f"{len(sweep.done())} trials done{missing}: {counted or 'no verdict'}; {sweep.folder.path}"
