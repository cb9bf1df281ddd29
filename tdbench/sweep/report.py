"""What a sweep leaves for people: `summary.md` and the plot, beside the tables for programs."""

from tdbench.config.user_code import label
from tdbench.results.plots import plot_sweep
from tdbench.results.store import PLOT_PNG, PLOT_SVG, SUMMARY_TEXT, write_atomically
from tdbench.results.tables import summary_markdown
from tdbench.sweep.runner import Sweep


def write_report(sweep: Sweep) -> None:
    """Write all tables and pictures of a sweep, whole or not at all, each.

    Raises:
        FolderError: A file cannot be written.
    """
    plan, folder, rows, trials = sweep.plan, sweep.folder, sweep.summary_rows(), sweep.trial_rows()
    sweep.write_tables()
    experiment = plan.experiment
    text = summary_markdown(
        rows,
        plan.keys,
        subject=subject(sweep),
        trials=trials,
        published=experiment.published or None,
        published_source=experiment.published_source,
    )
    pictures = folder / PLOT_PNG, folder / PLOT_SVG
    is_old = (folder / SUMMARY_TEXT).exists() and (folder / SUMMARY_TEXT).read_bytes() == text.encode()
    if is_old and all(path.exists() for path in pictures):
        return  # drawing is the slowest part of looking again at a large sweep
    if any(row["n"] for row in rows):
        plot_sweep(rows, plan.keys, *pictures, subject=subject(sweep), trials=trials)
    write_atomically(folder / SUMMARY_TEXT, text.encode())  # last: it says that the pictures are as new


def subject(sweep: Sweep) -> str:
    """Return what the trials of a sweep share, in a line."""
    base, keys = sweep.plan.base, set(sweep.plan.keys)
    method = "" if {"regularizer", "arm"} & keys else label(base.regularizer.name)
    network = "" if "model" in keys else label(base.model.name)
    share = base.data.train_fraction
    part = "" if share == 1 or "train_fraction" in keys else f"{100 * share:g} % of "
    data = "" if "data" in keys else f"on {part}{base.data.name}"
    steps = base.training.max_steps
    length = f"{base.training.epochs} epochs" if steps is None else f"at most {steps} steps"
    matched = None if base.regularizer.match is None else f"matched to {base.regularizer.match:g} % dropped"
    parts = (sweep.plan.experiment.title, method, f"{network} {data}".strip(), length, matched)
    return ", ".join(part for part in parts if part)
