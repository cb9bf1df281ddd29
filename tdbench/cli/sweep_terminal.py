"""What a sweep looks like: one live table on a terminal, plain lines elsewhere, nothing where silence is asked."""

import json as json_module
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tdbench.cli.terminal import LINE_EVERY_S, clock, describe, say
from tdbench.results.store import PLOT_PNG, PLOT_SVG, SUMMARY_TABLE, SUMMARY_TEXT, SWEEP, TRIALS, TRIALS_TABLE
from tdbench.sweep.plan import Plan
from tdbench.sweep.runner import Sweep, Watcher
from tdbench.sweep.slots import Slots
from tdbench.training.run import Progress

_COLUMNS = {  # column of summary.csv -> heading, form
    "n": ("n", "{}"),
    "test_error_pct_mean": ("test\nerror %", "{:.2f}"),
    "ci95": ("95 %\ninterval", "{}"),
    "delta_vs_baseline": ("difference", "{:+.2f}"),
    "delta_ci95": ("95 %\ninterval", "{}"),
    "p_holm": ("p\n(Holm)", "{:.3f}"),
    "verdict": ("verdict", "{}"),
    "dropped_pct": ("dropped\n%", "{:.3f}"),
    "train_img_per_s": ("images\n/s", "{:,.0f}"),
}
_FIRST_TO_GO = ("train_img_per_s", "ci95", "p_holm", "dropped_pct")  # where the terminal is narrow; the files keep them

_OUTCOME = {  # field of result.json or environment.json -> form
    "test_error_pct": "test error {:.2f} %",
    "dropped_pct": "{:.3f} % dropped",
    "wall_s": "{:.1f} s",
    "train_img_per_s": "{:,.0f} images/s",
    "peak_mem_mib": "{:,.0f} MiB",
    "data_wait_pct": "{:.1f} % waiting for data",
}


class Tally(Watcher):
    """Counts; says nothing.

    Attributes:
        running: Digest to how far the trial is, None where it has not said so yet.
    """

    def __init__(self, sweep: Sweep, slots: Slots) -> None:
        self.sweep, self.num_slots = sweep, len(slots.environments)
        self.running: dict[str, Progress | None] = {}
        self.names = names(sweep.plan)
        self.num_left = self.num_ended = 0
        self.started = time.monotonic()

    def began(self, num_trials: int) -> None:
        """Note when, and how many trials are to be run."""
        self.started, self.num_left = time.monotonic(), num_trials

    def trial_began(self, digest: str) -> None:
        """Note a trial that runs."""
        self.running[digest] = None

    def trial_progressed(self, digest: str, progress: Progress) -> None:
        """Note how far it is."""
        self.running[digest] = progress

    def trial_ended(self, digest: str, record: Mapping[str, Any]) -> None:
        """Note its end."""
        self.running.pop(digest, None)
        self.num_left -= 1
        self.num_ended += 1

    def outcome(self, digest: str, record: Mapping[str, Any]) -> str:
        """Return how a trial ended, in a few words."""
        return outcome(record, self.sweep.folder.trial(digest).read_environment().get("data_wait_pct"))

    def time_left(self) -> str:
        """Return the time that is left, from the trials so far and how far the running ones are."""
        parts = [progress.step / progress.num_steps for progress in self.running.values() if progress is not None]
        done = self.num_ended + sum(parts)
        if done < 0.1:
            return "-:--"
        return clock((time.monotonic() - self.started) / done * (self.num_left - sum(parts)))

    def counts(self) -> str:
        """Return done, failed and left in a few words."""
        done, unfinished = self.sweep.done(), self.sweep.unfinished().values()
        failed = sum(record["status"] != "waiting" for record in unfinished)
        return f"{len(done)} done, {failed} failed, {self.num_left} left, {self.time_left()} to go"


class PlainTally(Tally):
    """Prints a line when a trial ends, and one every few seconds, free of control characters."""

    def __init__(self, sweep: Sweep, slots: Slots) -> None:
        super().__init__(sweep, slots)
        self._printed = time.monotonic()

    def began(self, num_trials: int) -> None:
        """Print what there is to do."""
        super().began(num_trials)
        say(heading(self.sweep, self.num_left, self.num_slots))

    def trial_ended(self, digest: str, record: Mapping[str, Any]) -> None:
        """Print how it ended."""
        super().trial_ended(digest, record)
        say(f"{self.names[digest]}: {self.outcome(digest, record)}  ({self.counts()})")
        self._printed = time.monotonic()

    def looked(self) -> None:
        """Print how far the running trials are, unless the last line is recent."""
        if time.monotonic() - self._printed < LINE_EVERY_S:
            return
        self._printed = time.monotonic()
        for digest, progress in self.running.items():
            if progress is not None:
                say(f"  {self.names[digest]}  {position(progress)}")


class LiveTally(Tally):
    """Draws the running trials, and the counts below them."""

    def __init__(self, sweep: Sweep, slots: Slots) -> None:
        super().__init__(sweep, slots)
        self._console = Console()
        self._live = Live(console=self._console, transient=True, auto_refresh=False)

    def began(self, num_trials: int) -> None:
        """Begin to draw."""
        super().began(num_trials)
        self._console.print(heading(self.sweep, self.num_left, self.num_slots), style="dim")
        self._live.start()

    def trial_ended(self, digest: str, record: Mapping[str, Any]) -> None:
        """Print how it ended, above what is drawn."""
        super().trial_ended(digest, record)
        style = "" if record["status"] == "done" else "red"
        self._console.print(Text(f"{self.names[digest]}: {self.outcome(digest, record)}", style=style))

    def looked(self) -> None:
        """Draw anew."""
        grid = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None):  # the bar takes what the words leave
            grid.add_column(ratio=ratio, no_wrap=True)
        for digest, progress in self.running.items():
            if progress is None:
                grid.add_row(self.names[digest], Text("starting", style="dim"), "")
            else:
                bar = ProgressBar(total=progress.num_steps, completed=progress.step)
                grid.add_row(self.names[digest], bar, position(progress))
        grid.add_row("all", ProgressBar(total=len(self.sweep.records), completed=len(self.sweep.done())), self.counts())
        self._live.update(grid, refresh=True)

    def stop(self) -> None:
        """Take the drawing away."""
        self._live.stop()


@contextmanager
def watch_sweep(silent: bool, sweep: Sweep, slots: Slots) -> Iterator[Tally]:
    """Return what suits the output: silence, a live table on a terminal, or plain lines."""
    if silent:
        yield Tally(sweep, slots)
    elif not sys.stdout.isatty():
        yield PlainTally(sweep, slots)
    else:
        live = LiveTally(sweep, slots)
        try:
            yield live
        finally:
            live.stop()


def names(plan: Plan) -> dict[str, str]:
    """Return digest to what a person calls the trial: the first point that it belongs to, and its seed."""
    found: dict[str, str] = {}
    baselines = {point.baseline for point in plan.points}
    for point in plan.points:
        value = ", ".join(map(str, point.values.values())) + " (baseline)" * (point in baselines)
        for seed, digest in point.trials.items():
            found.setdefault(digest, f"{value}, seed {seed}")
    return found


def heading(sweep: Sweep, num_missing: int, num_at_once: int) -> str:
    """Return what there is to do, in a line."""
    num_done, num_trials = len(sweep.done()), len(sweep.records)
    return (
        f"{len(sweep.plan.points)} values of {', '.join(sweep.plan.keys)}, {len(sweep.plan.experiment.seeds)} seeds: "
        f"{num_trials} trials, "
        f"{num_done} done before, {num_missing} to run, {num_at_once} at once; {sweep.folder.path}"
    )


def position(progress: Progress) -> str:
    """Return how far a trial is."""
    return (
        f"epoch {progress.epoch}/{progress.num_epochs}  {describe(progress)}  {progress.train_img_per_s:,.0f} images/s"
    )


def outcome(record: Mapping[str, Any], data_wait_pct: float | None) -> str:
    """Return how a trial ended, in a few words."""
    if record["status"] != "done":
        return f"{record['status']}: {record['error']}" if record.get("error") else "stopped, to go on"
    figures = {**record, "data_wait_pct": data_wait_pct}
    return ", ".join(form.format(figures[name]) for name, form in _OUTCOME.items() if figures[name] is not None)


def print_plan(sweep: Sweep, missing: list[str], left_s: float, *, quiet: bool, json: bool) -> None:
    """Print the trials, how many are done, and the time that is left."""
    baselines = {digest for point in sweep.plan.points if point.baseline for digest in point.baseline.trials.values()}
    rows = [
        {"trial": row["trial"], "status": row["status"], "seed": row["seed"]}
        | {key: row[key] for key in sweep.plan.keys}
        | {"baseline": "yes" if row["trial"] in baselines else ""}
        for row in sweep.trial_rows()
    ]
    counts = {
        "trials": len(sweep.records),
        "done": len(sweep.done()),
        "to_run": len(missing),
        "time_left_s": round(left_s, 1),
    }
    if json:
        say(json_module.dumps(counts | {"rows": rows}, indent=2, ensure_ascii=False))
        return
    if not quiet:
        print_rows(rows)
    say(
        f"{counts['trials']} different trials, {counts['done']} done, {counts['to_run']} to run, "
        f"about {clock(left_s)} left; nothing was trained"
    )


def print_summary(sweep: Sweep) -> None:
    """Print the closing table, what failed, and where the files are."""
    rows = [{key: row[key] for key in sweep.plan.keys} | cells(row) for row in sweep.summary_rows()]
    print_rows(rows)
    unfinished, called = sweep.unfinished(), names(sweep.plan)
    for digest, record in unfinished.items():
        say(f"{called[digest]}: {record['status']}, {record.get('error') or 'to be run'}")
    if any(record["status"] in ("failed", "diverged") for record in unfinished.values()):
        say(f"--retry-failed runs these again; {sweep.folder.path / TRIALS}/*/log.txt says more")
    written = (SUMMARY_TABLE, SUMMARY_TEXT, TRIALS_TABLE, PLOT_PNG, PLOT_SVG, SWEEP)
    say(f"files in {sweep.folder.path}: {' '.join(name for name in written if (sweep.folder / name).exists())}")


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the summary as people read it."""
    pairs = {"ci95": ("ci95_low", "ci95_high"), "delta_ci95": ("delta_ci95_low", "delta_ci95_high")}
    intervals = {
        name: None if row[low] is None else f"{row[low]:.2f} to {row[high]:.2f}" for name, (low, high) in pairs.items()
    }
    values = {**row, **intervals}
    return {name: "" if values[name] is None else form.format(values[name]) for name, (_, form) in _COLUMNS.items()}


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table, without empty columns, and without those wanted least where the terminal is too narrow."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    names = [name for name in rows[0] if any(str(row[name]) for row in rows)]
    for name in _FIRST_TO_GO:
        if sum(least_width(name, rows) + 3 for name in names) + 1 > console.width and name in names:
            names.remove(name)
    table = Table()
    for name in names:
        justify: JustifyMethod = "left" if name in ("verdict", "trial", "status") else "right"
        table.add_column(title_of(name), justify=justify, no_wrap=is_figure(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[name])) for name in names))
    console.print(table)


def title_of(name: str) -> str:
    """Return what stands above a column."""
    return _COLUMNS.get(name, (name, ""))[0]


def is_figure(name: str) -> bool:
    """Return whether a column's cells must stay on one line."""
    return name in _COLUMNS and name != "verdict"


def least_width(name: str, rows: list[dict[str, Any]]) -> int:
    """Return the width that a column needs for no figure and no word to be broken."""
    cells = [str(row[name]) for row in rows]
    words = cells if is_figure(name) else [word for cell in cells for word in cell.split()]
    return max(len(part) for part in [*words, *title_of(name).split("\n")])


def closing_line(sweep: Sweep) -> str:
    """Return the outcome in one line."""
    rows = sweep.summary_rows()
    verdicts = [row["verdict"].partition(" (")[0] for row in rows if row["verdict"] != "baseline"]
    counted = ", ".join(f"{verdicts.count(verdict)} × {verdict}" for verdict in dict.fromkeys(verdicts))
    unfinished = len(sweep.unfinished())
    missing = f", {unfinished} trials not done" if unfinished else ""
    return f"{len(sweep.done())} trials done{missing}: {counted or 'no verdict'}; {sweep.folder.path}"
