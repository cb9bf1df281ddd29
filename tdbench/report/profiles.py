"""What a report says of a profile: the cost of a step against the bare step, and of a layer against the floor."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tdbench.report.charts import Mark, intervals
from tdbench.report.drawing import Picture
from tdbench.report.sources import ProfileSource
from tdbench.report.tables import Table
from tdbench.report.words import Section, commands_of, environment_lines
from tdbench.store.profiles import (
    BASELINE,
    FLOOR,
    LAYER_NOTE,
    STEP_NOTE,
    by_shape,
    is_unsteady,
    layer_table,
    machine_lines,
    step_table,
    unsteady_layers,
    unsteady_line,
)

Row = Mapping[str, Any]
OK = "ok"  # the status of a cell that was measured


def sections_of_profile(profile: ProfileSource) -> list[Section]:
    """Return what there is to say of a profile; a table that it does not have is left out."""
    found = []
    if profile.step:
        words = [quoted(STEP_NOTE), *filter(None, [unsteady_line(profile.step)])]
        table = as_table("profile_step", "The training step.", step_table(profile.step), profile.step)
        pictures = filter(None, [step_picture(profile.step)])
        found.append(Section("A step against the bare step", words, [*pictures], [table]))
    if profile.layer:
        words = [quoted(LAYER_NOTE), *filter(None, [unsteady_layers(profile.layer)])]
        tables = [
            as_table(f"profile_layer_{rows[0]['shape']}", f"{title}.", layer_table(rows), rows)
            for title, rows in by_shape(profile.layer).items()
        ]
        pictures = filter(None, [layer_picture(profile.layer)])
        found.append(Section("A layer against the floor", words, [*pictures], tables))
    return [*found, how_it_was_measured(profile)]


def quoted(text: str) -> str:
    """Return a text of Markdown with its code in quotes."""
    return re.sub(r"`([^`]+)`", r"“\1”", text)


def as_table(name: str, caption: str, cells: Sequence[Mapping[str, str]], raw: Sequence[Row]) -> Table:
    """Return formatted rows as a table of the report, with the figures behind them."""
    rows = [
        [method, *(cell.replace("-", "−") for cell in figures)] for method, *figures in (row.values() for row in cells)
    ]
    return Table(name, caption, [*cells[0]], rows, raw)


def step_picture(rows: Sequence[Row]) -> Picture | None:
    """Return the overheads with their intervals; None where no step was held against another."""
    if all(row["overhead_pct"] is None for row in rows):
        return None
    noise = next((interval_of(row, "overhead") for row in rows if row["method"] == BASELINE), None)
    marks = [
        Mark(row["method"], "", figure(row, "overhead_pct"), interval_of(row, "overhead"), note=missing(row))
        for row in rows
        if row["method"] != BASELINE
    ]
    counts = sorted({int(row["n"]) for row in rows if row["n"]})
    turns = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    alt = f"What a training step takes longer than the bare step, in per cent: {told(marks, '%')}"
    caption = f"n = {turns} turns; bars: 95 % intervals of the median."
    if noise is not None:
        caption += " Grey: the bare step held against itself; what lies within it is noise."
    return intervals(marks, "overhead of a step, %", alt, caption, band=noise)


def layer_picture(rows: Sequence[Row]) -> Picture | None:
    """Return the ratios to the floor with their intervals, a colour for each shape; None where there are none."""
    marks = [
        Mark(
            row["method"],
            row["shape"].replace("x", "×"),
            figure(row, "floor_ratio"),
            interval_of(row, "floor_ratio"),
            is_sure=not is_unsteady(row),
            note=missing(row),
        )
        for row in rows
        if row["method"] != FLOOR
    ]
    if all(math.isnan(mark.x) for mark in marks):
        return None
    alt = f"What a layer takes, forward and backward, as a multiple of the floor: {told(marks, '×')}"
    caption = "Bars: 95 % intervals of the median over the turns. Hollow: unsteady, known to no better than a quarter."
    return intervals(marks, "multiple of the floor (log scale)", alt, caption, at=1.0, log=True)


def told(marks: Sequence[Mark], unit: str) -> str:
    """Return what marks say, for those who do not see them."""
    return "; ".join(
        f"{' at '.join(filter(None, (mark.row, mark.series)))} {mark.note or f'{mark.x:.3g} {unit}'}" for mark in marks
    )


def figure(row: Row, name: str) -> float:
    """Return a figure of a row; NaN where there is none."""
    return math.nan if row.get(name) is None else float(row[name])


def interval_of(row: Row, name: str) -> tuple[float, float]:
    """Return the interval of a figure; NaN where there is none."""
    return figure(row, f"{name}_ci95_low"), figure(row, f"{name}_ci95_high")


def missing(row: Row) -> str:
    """Return why a cell has no figure; nothing where it has one."""
    return "" if row["status"] == OK else row["status"]


def how_it_was_measured(profile: ProfileSource) -> Section:
    """Return the command, the machine's own rates, and what the figures were measured on."""
    environment = profile.environment
    words: list[str] = []
    with suppress(KeyError, TypeError, ValueError):  # it has no such figures where the profile was of batch sizes
        words = machine_lines(environment["machine"])
    setting = profile.step or profile.layer
    names = [name for name in ("model", "precision", "memory_format", "compile") if setting[0].get(name)]
    told_here = [f"{name}: {setting[0][name]}" for name in names if name not in environment]
    lines = [*told_here, *environment_lines(profile.environments)]
    return Section("How it was measured", words, code=commands_of(profile.environments), lines=lines)
