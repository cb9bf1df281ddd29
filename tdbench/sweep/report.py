"""What a sweep leaves for people: `summary.md` and the plot, beside the tables for programs."""

from collections.abc import Set

from tdbench.regularizers.config import RegularizerConfig
from tdbench.store.files import as_text, read_file, write_atomically
from tdbench.store.folders import PLOT_PNG, PLOT_SVG, SUMMARY_TEXT
from tdbench.sweep.runner import Sweep, Tables
from tdbench.sweep.tables import summary_markdown
from tdbench.user_code import short_name


def write_report(sweep: Sweep, tables: Tables) -> None:
    """Write the summary's text and the pictures of a sweep, whole or not at all, each.

    Raises:
        FolderError: A file cannot be written.
    """
    plan, folder, rows, trials = sweep.plan, sweep.folder, tables.summary, tables.trials
    experiment = plan.experiment
    text = summary_markdown(
        rows,
        plan.keys,
        subject=subject(sweep),
        trials=trials,
        published=experiment.published or None,
        published_source=experiment.published_source,
        smallest=experiment.smallest,
    )
    pictures = folder / PLOT_PNG, folder / PLOT_SVG
    is_old = (folder / SUMMARY_TEXT).is_file() and read_file(folder / SUMMARY_TEXT) == text.encode()
    if is_old and all(path.exists() for path in pictures):
        return  # drawing is the slowest part of looking again at a large sweep
    if any(row.n for row in rows):
        from tdbench.sweep.plots import plot_sweep  # matplotlib is not for a sweep whose picture is there

        plot_sweep(rows, plan.keys, *pictures, subject=subject(sweep), trials=trials)
    write_atomically(folder / SUMMARY_TEXT, text.encode())  # last: it says that the pictures are as new


def method_of(regularizer: RegularizerConfig, keys: Set[str]) -> str:
    """Return the method that all trials have, with those of its knobs that are neither swept nor its defaults."""
    defaults = {name: one.default for name, one in type(regularizer).model_fields.items()}
    knobs = {name: value for name, value in regularizer.knobs().items() if name not in keys}
    told = [f"{name} {as_text(value)}" for name, value in knobs.items() if value != defaults.get(name, value)]
    return " ".join([short_name(regularizer.name), *([f"with {', '.join(told)}"] if told else [])])


def subject(sweep: Sweep) -> str:
    """Return what the trials of a sweep share, in a line."""
    base, keys = sweep.plan.base, set(sweep.plan.keys)
    method = "" if {"regularizer", "arm"} & keys else method_of(base.regularizer, keys)
    network = "" if "model" in keys else short_name(base.model.name)
    share = base.data.train_fraction
    part = "" if share == 1 or "train_fraction" in keys else f"{100 * share:g} % of "
    data = "" if "data" in keys else f"on {part}{base.data.name}"
    steps = base.training.max_steps
    length = f"{base.training.epochs} epochs" if steps is None else f"at most {steps} steps"
    matched = None if base.regularizer.match is None else f"matched to {base.regularizer.match:g} % dropped"
    parts = (sweep.plan.experiment.title, method, f"{network} {data}".strip(), length, matched)
    return ", ".join(part for part in parts if part)
