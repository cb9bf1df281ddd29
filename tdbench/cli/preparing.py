"""How far something is that takes its time before the work begins: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tdbench.cli.output import say, stdout
from tdbench.store.progress import telling

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_S = 5.0  # without a terminal
BAR_AFTER_S = 0.3  # what is done sooner needs none


class Preparation:
    """Shows what it hears: the share that is done of something, and what that is."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._bar: Progress | None = None

    def __call__(self, share: float, what: str) -> None:
        now = time.monotonic()
        if share >= 1:
            self.stop()
        elif self._begun is None:
            self._begun = now
        elif stdout().isatty():
            if now - self._begun >= BAR_AFTER_S:
                self._draw(share, what)
        elif now - self._begun >= LINE_EVERY_S:
            self._begun = now
            say(f"{what}: {100 * share:.0f} %")

    def _draw(self, share: float, what: str) -> None:
        if self._bar is None:
            self._bar = bar()
            self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=share, description=what)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._begun = None


def bar() -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tdbench.cli.console import console

    columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TimeRemainingColumn()
    return Progress(*columns, console=console(), expand=True, transient=True)


@contextmanager
def preparation_shown(silent: bool) -> Iterator[None]:
    """Show, for as long as this lasts, what is told of preparations; nothing where silence is asked."""
    if silent:
        yield
        return
    preparation = Preparation()
    try:
        with telling(preparation):
            yield
    finally:
        preparation.stop()
