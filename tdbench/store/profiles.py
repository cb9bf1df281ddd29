"""The folder of a profile: its files, by name, and their figures as tables for people, with how they were measured."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from tabulate import tabulate

LAYER, STEP, SUMMARY = "profile_layer.csv", "profile_step.csv", "profile.md"
FLOOR, BASELINE = "floor", "none"  # what a layer, and what a step, is compared with
UNSTEADY_PCT = 10.0
UNSTEADY_RATIO = 0.25  # width of the interval of a layer's ratio, as a part of the ratio

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)
Table = list[dict[str, str]]

STEP_NOTE = (
    "Overhead is the median over n turns of what a step takes longer than the baseline's in the same turn, with its "
    "95 % interval. `none` is a second baseline, measured like a method: what it seems to cost is the noise. Peak "
    "memory is weights, gradients, optimizer state and batch, and the most that a step holds beyond them."
)
LAYER_NOTE = (
    f"`{FLOOR}` multiplies by a scalar, in the same turns: no layer that returns a new map can move less memory. GB/s "
    "counts the useful bytes, a map read and written forward and again backward. Peak memory is what forward and "
    "backward hold beyond their input. Off CUDA, launches are the operators that touch memory, and syncs the values "
    "read back. `plain ×` is the ratio where freed memory goes back to the system, as it does unless a program sees to "
    "it: then every large map is faulted in again, and that costs the floor as much as any layer. `host ms` is what "
    "the host takes to launch it all on a GPU. `unsteady` marks a ratio whose 95 % interval is wider than a quarter of "
    "it."
)


def step_table(rows: Sequence[Row]) -> Table:
    """Return the rows of `profile_step.csv`, formatted for display."""
    return [
        {
            "method": row["method"],
            "batch": str(row["batch_size"]),
            "step ms": _number(row, "step_ms", "{:,.2f}"),
            "images/s": _number(row, "train_img_per_s", "{:,.0f}"),
            "overhead %": _number(row, "overhead_pct", "{:+.1f}"),
            "95 % interval": _interval(row),
            "peak MiB": _number(row, "peak_mem_mib", "{:,.1f}"),
            "n": str(row["n"]),
        }
        for row in rows
    ]


def layer_table(rows: Sequence[Row]) -> Table:
    """Return the rows of one shape of `profile_layer.csv`, formatted for display."""
    return [
        {
            "method": row["method"],
            "forward ms": _number(row, "forward_ms", "{:,.3f}"),
            "backward ms": _number(row, "backward_ms", "{:,.3f}"),
            "total ms": _number(row, "total_ms", "{:,.3f}"),
            "p20–p80": "–".join(_number(row, name, "{:.3g}") for name in ("p20_ms", "p80_ms")).strip("–"),
            "× floor": _number(row, "floor_ratio", "{:,.2f}"),
            "95 %": _layer_interval(row),
            "plain ×": _number(row, "plain_floor_ratio", "{:,.2f}"),
            "GB/s": _number(row, "gb_per_s", "{:,.1f}"),
            "peak MiB": _number(row, "peak_mem_mib", "{:,.1f}"),
            "launches": _number(row, "launches", "{}"),
            "syncs": _number(row, "host_syncs", "{}"),
            "graph breaks": _number(row, "graph_breaks", "{}"),
        }
        | ({"host ms": _number(row, "host_ms", "{:,.3f}")} if any(row.get("host_ms") for row in rows) else {})
        for row in rows
    ]


def by_shape(rows: Sequence[R]) -> dict[str, list[R]]:
    """Return title to rows, one for each shape, in order."""
    shapes: dict[tuple[str, str, str], list[R]] = {}
    for row in rows:
        shapes.setdefault((row["shape"], row["dtype"], row["memory_format"]), []).append(row)
    return {
        f"The layer alone at {shape.replace('x', '×')}, {dtype}, {layout}{regime(here)}": here
        for (shape, dtype, layout), here in shapes.items()
    }


def layer_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """Return title to table, one for each shape, in order."""
    return {title: layer_table(here) for title, here in by_shape(rows).items()}


def regime(rows: Sequence[Row]) -> str:
    """Return in what regime of memory a layer table was measured, where there are two."""
    return ", freed memory kept" if any(row.get("plain_total_ms") is not None for row in rows) else ""


def is_unsteady(row: Row) -> bool:
    """Return whether a layer's ratio to the floor is known badly."""
    low, high, ratio = (row.get(name) for name in ("floor_ratio_ci95_low", "floor_ratio_ci95_high", "floor_ratio"))
    if low is None or high is None or ratio is None:
        return False
    return bool(high - low > UNSTEADY_RATIO * ratio)


def unsteady_layers(rows: Sequence[Row]) -> str | None:
    """Return a warning where ratios of the layer table are known badly, else None."""
    named = [f"{row['method']} at {row['shape'].replace('x', '×')}" for row in rows if is_unsteady(row)]
    if not named:
        return None
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return (
        f"Unsteady: the ratio to the floor of {', '.join(named[:3])}{more} has a 95 % interval wider than "
        f"{100 * UNSTEADY_RATIO:.0f} % of it. Was anything else running? --seconds gives more turns time."
    )


def unsteady_line(step: Sequence[Row]) -> str | None:
    """Return a warning if the second baseline shows that the figures are too noisy, else None."""
    for row in step:
        low, high = row.get("overhead_ci95_low"), row.get("overhead_ci95_high")
        if row["method"] == BASELINE and low is not None and max(-low, high) > UNSTEADY_PCT:
            return (
                f"This machine was unsteady: a step without regularizer, held against itself, seems to take {low:+.0f} "
                f"to {high:+,.0f} % longer, so that a smaller overhead cannot be told. Was anything else running?"
            )
    return None


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """Return the machine's rates and the baseline step's work, in sentences."""
    return [
        f"Memory is copied at {machine['copy_gb_per_s']:,.1f} GB/s, matrices are multiplied at "
        f"{machine['matmul_gflop_per_s']:,.1f} GFLOP/s.",
        f"A step without regularizer asks for {machine['step_gflop']:,.2f} GFLOP of convolutions and products, and its "
        f"{machine['step_operators']} operators for {machine['step_gb']:,.3f} GB if no cache held anything.",
        machine["limit"],
    ]


def markdown(
    facts: Mapping[str, str], step: Sequence[Row], layer: Sequence[Row], machine: Mapping[str, Any] | None
) -> str:
    """Return the text of `profile.md`."""
    parts = ["# What regularizers cost", _table([{"": name, " ": fact} for name, fact in facts.items()])]
    if step:
        parts += ["## The training step", _table(step_table(step)), STEP_NOTE, *filter(None, [unsteady_line(step)])]
    for title, table in layer_tables(layer).items():
        parts += [f"## {title}", _table(table)]
    if layer:
        parts += [LAYER_NOTE, *filter(None, [unsteady_layers(layer)])]
    if machine:
        parts += ["## The machine", " ".join(machine_lines(machine))]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    aligned = ["left"] + ["right"] * (len(table[0]) - 1) if len(table[0]) > 2 else None
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True, colalign=aligned)


def _number(row: Row, name: str, form: str) -> str:
    """Return a formatted cell; without a figure, the main columns show a status other than `ok`."""
    if row.get(name) is not None:
        return form.format(row[name])
    return row["status"] if row["status"] != "ok" and name in ("step_ms", "total_ms") else ""


def _layer_interval(row: Row) -> str:
    low, high = row.get("floor_ratio_ci95_low"), row.get("floor_ratio_ci95_high")
    if low is None or high is None:
        return ""
    return f"{low:,.2f} to {high:,.2f}" + " unsteady" * is_unsteady(row)


def _interval(row: Row) -> str:
    low, high = row.get("overhead_ci95_low"), row.get("overhead_ci95_high")
    return "" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
