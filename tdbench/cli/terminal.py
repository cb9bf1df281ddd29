"""What a run looks like: a live progress bar on a terminal, plain lines elsewhere, nothing where silence is asked."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from tdbench.cli.console import console
from tdbench.cli.output import say, stdout
from tdbench.regularizers.config import RegularizerConfig
from tdbench.store.files import to_json
from tdbench.store.folders import TRACE, RunFolder
from tdbench.store.progress import Observer
from tdbench.store.progress import Progress as RunProgress
from tdbench.store.rows import RunResult
from tdbench.user_code import short_name

NEAR_MATCH = 0.1  # how far a share may be from the one it was solved for, as a part of that, before it is told
LINE_EVERY_S = 5.0  # without a terminal

_SHOWN = {
    "test_error_pct": ("test error, last epoch", "{:.2f} %"),
    "test_error_pct_bn": ("the same, BatchNorm re-estimated", "{:.2f} %"),
    "test_error_pct_ema": ("the same, average of the weights", "{:.2f} %"),
    "best_test_error_pct": ("test error, best epoch (optimistic)", "{:.2f} %"),
    "valid_error_pct": ("error on the held-out images", "{:.2f} %"),
    "train_error_pct": ("train error, last epoch", "{:.2f} %"),
    "dropped_pct": ("units dropped at the sites", "{:.3f} %"),
    "train_img_per_s": ("throughput, median step", "{:,.0f} images/s"),
    "data_wait_pct": ("waiting for data, share of the steps", "{:.1f} %"),
    "wall_s": ("time", "{:.1f} s"),
    "peak_mem_mib": ("peak memory", "{:,.0f} MiB"),
    "epochs": ("epochs", "{}"),
    "seed": ("seed", "{}"),
}


def is_off_target(match: float | None, dropped_pct: float | None) -> bool:
    """Return whether a dropped share is far from the one that a method's strength was solved for."""
    return match is not None and dropped_pct is not None and abs(dropped_pct - match) > NEAR_MATCH * match


class SilentObserver(Observer):
    """Watches in silence; tells `on_start` when training begins."""

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        self.has_started = False
        self._on_start = on_start

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        self.has_started = True
        self._on_start()


class PlainObserver(SilentObserver):
    """Prints a line every few seconds, free of control characters."""

    def __init__(self, on_start: Callable[[], None]) -> None:
        super().__init__(on_start)
        self._printed = time.monotonic()

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        super().started(facts, step, num_steps)
        for name, fact in facts.items():
            say(f"{name:<12} {fact}")
        if step:
            say(f"resuming after step {step} of {num_steps}")

    def progressed(self, progress: RunProgress) -> None:
        if time.monotonic() - self._printed < LINE_EVERY_S:
            return
        self._printed = time.monotonic()
        left_s = (progress.num_steps - progress.step) * progress.batch_size / max(progress.train_img_per_s, 1e-9)
        say(
            f"epoch {progress.epoch}/{progress.num_epochs}  step {progress.step}/{progress.num_steps}  "
            f"{describe(progress)}  {progress.train_img_per_s:,.0f} images/s  {clock(left_s)} left"
        )

    def evaluating(self, progress: RunProgress) -> None:
        self.progressed(progress)

    def slowed(self, times: float) -> None:
        say(slowed_line(times))


class LiveObserver(SilentObserver):
    """Draws a progress bar."""

    def __init__(self, on_start: Callable[[], None], screen: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(on_start)
        self._console = screen
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[rate]}", style="cyan", markup=False, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=screen,
            expand=True,
            transient=True,
        )
        self._task = self._bar.add_task("", start=False, total=1, epoch="", figures="", rate="")

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        super().started(facts, step, num_steps)
        grid = Table.grid(padding=(0, 2))
        for name, fact in facts.items():
            grid.add_row(Text(name, style="dim"), Text(fact))
        self._console.print(grid)
        if step:
            self._console.print(f"resuming after step {step} of {num_steps}", style="yellow")
        self._bar.update(self._task, total=num_steps, completed=step)
        self._bar.start()
        self._bar.start_task(self._task)

    def progressed(self, progress: RunProgress) -> None:
        self._bar.update(
            self._task,
            completed=progress.step,
            epoch=f"{progress.epoch}/{progress.num_epochs}",
            figures=describe(progress),
            rate=f"{progress.train_img_per_s:,.0f} images/s",
        )

    def evaluating(self, progress: RunProgress) -> None:
        self._bar.update(self._task, figures="evaluating", rate="")

    def slowed(self, times: float) -> None:
        self._console.print(Text(slowed_line(times), style="yellow"))

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()


@contextmanager
def watch(silent: bool, on_start: Callable[[], None]) -> Iterator[SilentObserver]:
    """Return what suits the output: silence, a bar on a terminal, or plain lines."""
    if silent:
        yield SilentObserver(on_start)
    elif not stdout().isatty():
        yield PlainObserver(on_start)
    else:
        live = LiveObserver(on_start, console())
        try:
            yield live
        finally:
            live.stop()


def describe(progress: RunProgress) -> str:
    """Return the loss and the errors, in a few words."""
    text = f"loss {progress.train_loss:.3f} error {progress.train_error_pct:.1f} %"
    if progress.test_error_pct is not None:
        text += f" test {progress.test_error_pct:.2f} %"
    return text


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def slowed_line(times: float) -> str:
    """Return what helps where steps take so many times as long as they did."""
    return (
        f"note: a step takes {times:.1f} times as long as this run's fastest did; if others use this machine too, "
        "stop this run (Ctrl-C saves it) and start it again: it then sees them; --threads 1 helps too"
    )


def note_off_target(match: float | None, dropped_pct: float | None) -> None:
    """Say on stderr how far a run's dropped share is from the one that it was solved for, unless it is near."""
    if is_off_target(match, dropped_pct):
        print(
            f"tdbench: note: {dropped_pct:.3g} % of the units were dropped, not the {match:g} % that were asked for: "
            "the calibration saw the initial network, and a short run has few masks and few steps of its schedule",
            file=sys.stderr,
        )


def note_nothing_dropped(regularizer: RegularizerConfig, result: RunResult) -> None:
    """Say on stderr that a method dropped nothing, and why where that is known."""
    if regularizer.name == "none" or not result.is_done or result.dropped_pct != 0:
        return
    rises = (
        "its strength rises linearly over the run, which was too short; " if regularizer.schedule == "linear" else ""
    )
    print(
        f"tdbench: note: {short_name(regularizer.name)} dropped nothing in the whole run; {rises}`tdbench audit` with "
        "the same settings says more",
        file=sys.stderr,
    )


def run_line(result: RunResult, folder: Path, trained: bool = True) -> str:
    """Return the outcome of a run in one line."""
    if not result.is_done:
        return f"{result.status}: {result.error}; {folder}"
    done = "" if trained else "already done: "
    error = f"test error {result.test_error_pct:.2f} %" if result.test_error_pct is not None else "test set not read"
    return (
        f"{done}{error} after {result.epochs} epochs (n = 1 run, seed "
        f"{result.seed}), {result.dropped_pct:.3f} % of units dropped, {result.wall_s:.1f} s; {folder}"
    )


def show_result(result: RunResult, folder: Path, trained: bool, *, quiet: bool, json: bool, trace: Path | None) -> None:
    """Print how a run ended: as JSON, in a line, or as a table and where the files are."""
    if json:
        say(to_json(result.to_tree()).rstrip())
    elif quiet:
        say(run_line(result, folder, trained))
    else:
        print_result(result, folder, trained)
        if trace is not None and trained:
            written = trace / TRACE
            say(f"trace in {trace}: {written.name}, which ui.perfetto.dev and chrome://tracing show")


def print_result(result: RunResult, folder: Path, trained: bool) -> None:
    """Print the closing table and where the files are."""
    if not trained:
        say(f"{folder} holds this run already, {result.status}; --fresh starts it over, --out DIR repeats it")
    figures = {"data_wait_pct": RunFolder(folder).read_environment().get("data_wait_pct")} | result.to_tree()
    rows = [(label, form.format(figures[key])) for key, (label, form) in _SHOWN.items() if figures[key] is not None]
    if result.error:
        rows.insert(0, (result.status.value, result.error))
    if stdout().isatty():
        table = Table(show_header=False, title=f"result of {result.status} run" if not trained else None)
        for label, value in rows:
            table.add_row(label, Text(value, justify="right"))
        console().print(table)
    else:
        for label, value in rows:
            say(f"{label:<36} {value}")
    say(f"files in {folder}: {' '.join(RunFolder(folder).files())}")
