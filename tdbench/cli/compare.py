"""`tdbench compare`: the same verdicts for runs that were made elsewhere."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tdbench.cli import options

if TYPE_CHECKING:
    from tdbench.sweep.compare import Comparison

Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SOURCE...", help="CSV files, a folder of run folders, or several sweep folders."),
]
Value = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column, or key of the configuration, that tells what is compared.")
]
Seed = Annotated[str, typer.Option(metavar="NAME", help="Column that tells which runs belong together.")]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column, or field of result.json, that is compared.  [default: that of the sweeps, or test_error_pct]",
    ),
]
Higher = Annotated[
    bool | None,
    typer.Option(
        "--higher-is-better/--lower-is-better", help="Whether more of the metric is better, as of an accuracy."
    ),
]
Baseline = Annotated[
    str | None, typer.Option(metavar="VALUE", help="The value that others are compared with.  [default: none]")
]
Unpaired = Annotated[bool, typer.Option("--unpaired", help="Compare runs of any seeds, by Welch's test.")]


def compare_command(
    sources: Sources,
    value: Value = None,
    seed: Seed = "seed",
    metric: Metric = None,
    higher_is_better: Higher = None,
    baseline: Baseline = None,
    unpaired: Unpaired = False,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Compare runs that are there already, value by value with a baseline, seed by seed, with intervals and verdicts.

    Of a CSV file, of a folder of runs of `tdbench train`, or of sweep folders, the first of which is the baseline.
    """
    from tdbench.cli.output import say
    from tdbench.store.files import make_folder, to_csv, write_atomically
    from tdbench.sweep.compare import COLUMNS, compare

    found = compare(
        *sources,
        value=value,
        seed=seed,
        metric=metric,
        higher_is_better=higher_is_better,
        baseline=baseline,
        unpaired=unpaired,
    )
    if out is not None:
        make_folder(out)
        write_atomically(out / "compare.csv", to_csv(found.rows, ["value", *COLUMNS]).encode())
    if json:
        import json as json_module

        say(json_module.dumps({"differences": found.differences, "values": found.rows}, indent=2, ensure_ascii=False))
    elif quiet:
        say("; ".join(f"{row['value']}: {row['verdict']}" for row in found.rows))
    else:
        print_comparison(found)


def print_comparison(found: "Comparison") -> None:
    """Print what differs between the sources, and the table."""
    from rich.table import Table
    from rich.text import Text

    from tdbench.cli.console import console
    from tdbench.cli.output import say
    from tdbench.sweep.columns import MISSING, joined_by, number, probability

    for line in found.differences:
        say(f"note: {line}")
    form = ".2f" if "_pct" in found.metric else form_of(found.rows)
    signed = f"+{form}"
    test = "paired by seed" if found.is_paired else "unpaired"
    better = "more" if found.more_is_better else "less"
    table = Table(
        title=f"{found.metric} ({better} is better), {test}; 95 % intervals, p after Holm's correction",
        title_justify="left",
    )
    headings = ("value", "n", "mean ± std", "difference", "its 95 %\ninterval", "better\nin", "p\n(Holm)", "verdict")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("value", "verdict") else "right", overflow="fold")
    for row in found.rows:
        better = MISSING if row["num_better"] is None else f"{row['num_better']} of {row['num_pairs']}"
        table.add_row(
            Text(row["value"]),
            str(row["n"]),
            joined_by(" ± ", row["mean"], row["std"], form=form),
            number(row["delta_vs_baseline"], signed),
            joined_by(" to ", row["delta_ci95_low"], row["delta_ci95_high"], form=signed),
            better,
            probability(row["p_holm"]),
            Text(row["verdict"]),
        )
    console().print(table)


def form_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the form of all figures: four digits of the largest mean, and two of the smallest deviation."""
    means = [abs(row["mean"]) for row in rows if row["mean"]]
    deviations = [row["std"] for row in rows if row["std"]]
    decimals = [3 - math.floor(math.log10(max(means)))] if means else []
    decimals += [1 - math.floor(math.log10(min(deviations)))] if deviations else []
    return f".{min(max([0, *decimals]), 8)}f" if decimals else ".2f"
