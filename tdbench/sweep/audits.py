"""The audit of a sweep: before its trials run, the regularizer of each value is held against its configuration."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tdbench.errors import ConfigError
from tdbench.store.files import as_text, counted
from tdbench.sweep import lab
from tdbench.sweep.points import Plan
from tdbench.sweep.runner import Sweep


def check_auditable(plan: Plan) -> None:
    """Check that the trials of a sweep are networks of tdbench's.

    Raises:
        ConfigError: They are a script of the user's.
    """
    if plan.experiment.is_own:
        raise ConfigError(
            "--audit is about tdbench's own runs; in a script of yours, tdbench.audit(model, ...) does it"
        )


def audit_values(
    sweep: Sweep, environment: Mapping[str, str], tell: Callable[[str], None], *, fresh: bool = False
) -> None:
    """Audit each value of a sweep that was not audited yet, on its first trial, and write `audit.csv`.

    Args:
        sweep: Of tdbench's own runs.
        environment: Variables of the process that does it, such as the GPU that it sees.
        tell: Told in a line what is done, and of each fault.
        fresh: Audit again what was audited before.

    Raises:
        TdbenchError: A network or its data are not available, or the table cannot be written.
    """
    values = dict(values_of(sweep.plan))
    if not values:
        tell("no value has a regularizer to be audited")
    rows = [] if fresh else [row for row in sweep.folder.read_audit() if row.get("trial") in values]
    known = {row["trial"] for row in rows}
    waiting = {digest: value for digest, value in values.items() if digest not in known}
    if waiting:
        tell(f"auditing {counted(len(waiting), 'value')} ...")
        trees = [sweep.plan.trials[digest].dump() for digest in waiting]
        audits = lab.ask("tdbench.audit.command:audit_rows", trees, environment=environment)
        for (digest, value), found in zip(waiting.items(), audits, strict=True):
            rows += [{"trial": digest, "value": value} | row for row in found]
        sweep.folder.write_audit(rows)
    for fault in faults_in(rows):
        tell(fault)


def values_of(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the first trial of each value that has a regularizer, and the value in words."""
    for point in plan.points:
        digest = next(iter(point.trials.values()))
        if plan.trials[digest].regularizer.name != "none":
            yield digest, ", ".join(f"{key} {as_text(value)}" for key, value in point.values.items())


def faults_in(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the faults of audited values, a line each, with the sites that have it."""
    sites: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["faults"]:
            sites.setdefault((row["value"], row["faults"]), []).append(row["site"])
    for (value, text), where in sites.items():
        yield f"fault: {value}: {text} at {', '.join(where)}"
