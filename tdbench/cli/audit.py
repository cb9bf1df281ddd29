"""`tdbench audit`: is the regularizer doing what its configuration says?"""

from typing import TYPE_CHECKING, Any

import typer

from tdbench.cli import options
from tdbench.cli.starting import Start

if TYPE_CHECKING:
    from tdbench.audit.network import Audit


NOT_CHECKED = (
    "; it declares no traits, so that what it drops whole, who shares a mask, the scale and the share were measured "
    "and not checked"
)


@options.with_run_flags
def audit_command(
    given: dict[str, Any],
    config: options.ConfigFile = None,
    out: options.Out = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Hold a regularizer against its configuration, site by site, on a few real batches; nothing is trained.

    It builds the network of `tdbench train` and measures in fp32, at full strength, what the masks really drop; --set
    reaches every setting of a run. The exit code is 1 where the regularizer is not doing what its configuration says.
    """
    from tdbench.cli.output import say
    from tdbench.config import load_config
    from tdbench.store.files import make_folder, to_csv, to_json, write_atomically
    from tdbench.store.folders import AUDIT

    start = Start()
    if not options.names_user_method(given):
        load_config(config, given)  # what is wrong should not wait for torch
    start.announce("torch, the data and the network", quiet or json, given.get("threads"))
    from tdbench.audit.command import audit_run

    audited = audit_run(config, given)
    rows = audited.rows()
    if out is not None:
        make_folder(out)
        write_atomically(out / AUDIT, to_csv(rows, list(rows[0])).encode())
    if json:
        findings = [{"level": one.level, "text": one.text, "sites": one.sites} for one in audited.findings]
        say(to_json({"sites": rows, "findings": findings}).rstrip())
    elif quiet:
        say(audit_line(audited))
    else:
        print_audit(audited, rows)
    if audited.faults:
        raise typer.Exit(1)


def audit_line(audited: "Audit") -> str:
    from tdbench.store.files import counted

    num_faults = len(audited.faults)
    num_notes = len(audited.findings) - num_faults
    verdict = "does what its configuration says" if not num_faults else "does not do what its configuration says"
    counts = f"{counted(num_faults, 'fault')}, {counted(num_notes, 'note')} at {counted(len(audited.sites), 'site')}"
    unchecked = "" if any(site.claims.traits or site.claims.nominal == 0 for site in audited.sites) else NOT_CHECKED
    return f"{audited.sites[0].claims.method} {verdict}: {counts}{unchecked}"


def print_audit(audited: "Audit", rows: list[dict[str, Any]]) -> None:
    """Print the table, the findings and the outcome."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text
    from tabulate import tabulate

    from tdbench.cli.console import console
    from tdbench.cli.output import say, stdout

    for name in ("model", "data", "regularizer"):
        say(f"{name:<12} {audited.facts[name]}")
    shown = [readable(row) for row in rows]
    if stdout().isatty():
        table = Table(
            *(Column(name, overflow="fold") for name in shown[0]),
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for cells in shown:
            table.add_row(*cells.values())
        console().print(table)
    else:
        say("\n" + tabulate(shown, headers="keys", tablefmt="plain", disable_numparse=True) + "\n")
    num_batches = max(row["n"] or 0 for row in rows)
    say(f"95 % intervals over n = {num_batches} batches of {audited.batch_size} images, schedules at full strength;")
    say("gradient: to the layer's own weights; random: it draws random numbers; calls: in training + in evaluation;")
    say("mean × var: of what the layer puts out, and of what the next batch norm gets, relative to evaluation;")
    say("a share within 10 % of the nominal one is taken for it")
    for finding in audited.findings:
        if stdout().isatty():
            console().print(Text(str(finding), style="red" if finding.level == "fault" else "yellow"))
        else:
            say(str(finding))
    say(audit_line(audited))


def readable(row: dict[str, Any]) -> dict[str, str]:
    """Return a row of `audit.csv` for people."""
    block = row["block_size"] and str(row["effective_block"]).replace("x", "×")
    if block and block != f"{row['block_size']}×{row['block_size']}":
        block = f"{row['block_size']} → {block}"
    interval = row["ci95_low"] is not None and f" [{row['ci95_low']:.4g}, {row['ci95_high']:.4g}]"
    return {
        "site": row["site"],
        "map": row["map"].replace("x", "×"),
        "block": block or "–",
        "nominal %": figure(row["nominal_pct"]),
        "dropped % [95 %]": figure(row["dropped_pct"]) + (interval or ""),
        "scale": figure(row["output_scale"]),
        "eval": {True: "identity", False: "changed", None: "–"}[row["eval_identity"]],
        "gradient": row["gradient"],
        "random": {True: "yes", False: "no", None: "–"}[row["random"]],
        "calls": f"{row['calls_train']} + {row['calls_eval']}",
        "mean × var": times(row["mean_ratio"], row["var_ratio"]),
        "at batch norm": times(row["bn_mean_ratio"], row["bn_var_ratio"]),
    }


def times(*ratios: float | None) -> str:
    """Return ratios to evaluation, or a dash where there are none."""
    return "–" if None in ratios else " × ".join(f"{ratio:.2f}" for ratio in ratios)


def figure(value: float | None) -> str:
    """Return a figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"
