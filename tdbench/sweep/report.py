"""What a sweep leaves for people: `summary.md` and the plot, beside the tables for programs."""

from tdbench.store.files import read_file, write_atomically
from tdbench.store.folders import PLOT_PDF, PLOT_PNG, PLOT_SVG, SUMMARY_TEXT
from tdbench.sweep.runner import Sweep, Tables
from tdbench.sweep.tables import summary_markdown


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
        subject=plan.subject(),
        trials=trials,
        published=experiment.published or None,
        published_source=experiment.published_source,
        smallest=experiment.smallest,
        more_is_better=experiment.more_is_better,
    )
    pictures = folder / PLOT_PNG, folder / PLOT_SVG  # the PDF came later: for its sake no finished sweep is drawn again
    is_old = (folder / SUMMARY_TEXT).is_file() and read_file(folder / SUMMARY_TEXT) == text.encode()
    if is_old and all(path.exists() for path in pictures):
        return  # drawing is the slowest part of looking again at a large sweep
    if any(row.n for row in rows):
        from tdbench.sweep.plots import plot_sweep  # matplotlib is not for a sweep whose picture is there

        plot_sweep(rows, plan.keys, *pictures, subject=plan.subject(), pdf=folder / PLOT_PDF, trials=trials)
    write_atomically(folder / SUMMARY_TEXT, text.encode())  # last: it says that the pictures are as new
