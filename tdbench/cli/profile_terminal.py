"""A profile's tables on the terminal, and what was done in one line."""

import json as json_module
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tdbench.cli.console import console
from tdbench.cli.output import say

if TYPE_CHECKING:
    from tdbench.profiling.measuring import Profile

FEW = 3  # methods, which one line can name


def show(profile: "Profile", folder: Path, took_s: float, *, quiet: bool, json: bool) -> None:
    """Print the tables, or what `--quiet` and `--json` ask for."""
    if json:
        found = {name: getattr(profile, name) for name in ("layer", "step", "machine", "left_out")}
        say(json_module.dumps(found, indent=2, ensure_ascii=False))
        return
    from tdbench.store.profiles import layer_tables, machine_lines, step_table, unsteady_layers, unsteady_line

    if not quiet:
        for title, table in layer_tables(profile.layer).items():
            print_table(title, table)
        if unsteady := unsteady_layers(profile.layer):
            say(unsteady)
        where = f"{profile.baseline.model.name}, {profile.facts()['precision']}, on {profile.hardware.name()}"
        print_table(f"The training step of {where}", step_table(profile.step))
        for line in (unsteady_line(profile.step), *(machine_lines(profile.machine) if profile.machine else ())):
            if line:
                say(line)
        for name, reason in profile.left_out.items():
            say(f"left out: {name}: {reason}")
    say(profile_line(profile, folder, took_s))


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0]:
        is_name = column == "method"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row.values())
    console().print(table)


def profile_line(profile: "Profile", folder: Path, took_s: float) -> str:
    """Return what was done, in one line."""
    where = f"{profile.baseline.model.name} ({profile.hardware.precision}) on {profile.hardware.name()}"
    if not profile.layer:
        return f"largest batch tried that fits in {where}: {largest_batches(profile) or 'none'}; {folder}"
    alone, step = measured_rows(profile.layer, profile.methods), measured_rows(profile.step, profile.methods)
    shapes = dict.fromkeys(row["shape"].replace("x", "×") for row in alone)
    places = [f"alone at {', '.join(shapes)}"] if alone else []
    places += [f"in a step of {where}"] if step else []
    methods = list(dict.fromkeys(row["method"] for row in (*alone, *step)))
    what = ", ".join(methods) if len(methods) <= FEW else f"{len(methods)} methods"
    empty = Counter(row["status"] for row in (*profile.layer, *profile.step) if row["status"] != "ok")
    rest = "".join(f"; {status} in {count} row{'s' * (count > 1)}" for status, count in empty.items())
    return f"measured {what or 'nothing'} {' and '.join(places)}".rstrip() + f" in {took_s:.0f} s{rest}; {folder}"


def measured_rows(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the rows of the methods that have figures."""
    return [row for row in rows if row["method"] in methods and row["status"] == "ok"]


def largest_batches(profile: "Profile") -> str:
    """Return the largest batch that fits with each method, and whether time ended before memory."""
    from tdbench.profiling.step import OUT_OF_TIME

    largest = dict.fromkeys((method for method in profile.methods if method not in profile.failures), 0)
    for row in measured_rows(profile.step, list(largest)):
        largest[row["method"]] = max(largest[row["method"]], row["batch_size"])
    stopped = {row["method"] for row in profile.step if row["status"] == OUT_OF_TIME}
    return ", ".join(
        f"{method} {size}" + " (stopped for time; --search-seconds gives more)" * (method in stopped)
        for method, size in largest.items()
    )
