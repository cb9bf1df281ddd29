"""Loggers at arm's length: what they raise, and how long they take, costs a note and never a run."""

import time
from collections.abc import Callable, Iterable
from importlib import import_module
from queue import SimpleQueue
from textwrap import shorten
from threading import Thread

from tdbench.store.loggers import LOGGERS
from tdbench.store.loggers.base import PATIENCE_S, Logger

LOOK_EVERY_S = 0.02
LONGEST_FAILURE = 300  # characters; some packages put the reason behind the first line

Order = Callable[[Logger], None]


class Guarded:
    """A logger in a thread of its own, which does in turn what it is told until it fails.

    Attributes:
        failure: Why it does nothing more, in a line.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: str | None = None
        self._num_told = self._num_done = 0
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"tdbench-{name}", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            module, _, cls = LOGGERS[self.name].logger.partition(":")
            logger = getattr(import_module(f"{__package__}.{module}"), cls)()
            while (order := self._orders.get()) is not None:
                order(logger)
                self._num_done += 1
        except BaseException as error:  # SystemExit too, by which a package may answer
            self.failure = shorten(f"{type(error).__name__}: {error}".rstrip(": "), LONGEST_FAILURE, placeholder=" ...")

    def tell(self, order: Order | None) -> None:
        """Let the logger do something more; None: be done."""
        self._num_told += 1
        self._orders.put(order)

    def is_busy(self) -> bool:
        """Return whether it has not done all yet that it was told."""
        return self._num_done < self._num_told and self._thread.is_alive()


class Guards:
    """Several loggers at arm's length.

    Args:
        names: Of LOGGERS.
        note: Told, in the thread that uses this, what has become of a logger that failed; once of each.
    """

    def __init__(self, names: Iterable[str], note: Callable[[str], None]) -> None:
        self._guards, self._note = [Guarded(name) for name in names], note

    @property
    def names(self) -> tuple[str, ...]:
        """Those that have not failed."""
        return tuple(guard.name for guard in self._guards)

    def tell(self, order: Order) -> None:
        """Let all loggers do something, and return at once."""
        for guard in self._guards:
            guard.tell(order)
        self._note_failures()

    def settle(self) -> None:
        """Wait until all have done what they were told; one that takes longer than PATIENCE_S is left behind."""
        end = time.monotonic() + PATIENCE_S
        while any(guard.is_busy() for guard in self._guards) and time.monotonic() < end:
            time.sleep(LOOK_EVERY_S)
        for guard in self._guards:
            if guard.is_busy():
                guard.failure = f"no answer for {PATIENCE_S:g} s"
        self._note_failures()

    def close(self) -> None:
        """Let all end, as `settle` does."""
        for guard in self._guards:
            guard.tell(None)
        self.settle()

    def _note_failures(self) -> None:
        for guard in [guard for guard in self._guards if guard.failure is not None]:
            self._guards.remove(guard)
            self._note(f"--log {guard.name} failed and is left out: {guard.failure}")
