"""How far a command is that measures: a bar on a terminal, plain lines elsewhere, nothing where silence is asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tdbench.cli.console import console
from tdbench.cli.output import say, stdout
from tdbench.cli.terminal import LINE_EVERY_S, clock
from tdbench.store.progress import TellProgress


@contextmanager
def progress(silent: bool) -> Iterator[TellProgress]:
    """Yield what is to be told how far the command is."""
    if silent:
        yield lambda share, what: None
    elif not stdout().isatty():
        yield _Lines()
    else:
        what = TextColumn("{task.description}", markup=False)
        columns = (what, BarColumn(None), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(), expand=True, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda share, what: bar.update(task, completed=share, description=what)


class _Lines:
    """Prints a line every few seconds."""

    def __init__(self) -> None:
        self._begun = self._printed = time.monotonic()

    def __call__(self, share: float, what: str) -> None:
        now = time.monotonic()
        if now - self._printed >= LINE_EVERY_S:
            self._printed = now
            left = f"  {clock((now - self._begun) * (1 - share) / share)} left" if share > 0.05 else ""
            say(f"{share:4.0%}  {what}{left}")
