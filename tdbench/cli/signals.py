"""Ctrl-C and SIGTERM: once to save and stop, twice to stop at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignals:
    """Notes the wish to stop; until there is something to save, a signal interrupts at once."""

    def __init__(self) -> None:
        self._graceful = False
        self._requested = False

    def be_graceful(self) -> None:
        """From now on, let the first signal only be noted."""
        self._graceful = True

    def stop_requested(self) -> bool:
        """Return whether a signal came."""
        return self._requested

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise KeyboardInterrupt for the second, or where there is nothing to save."""
        if self._requested or not self._graceful:
            raise KeyboardInterrupt
        self._requested = True


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle SIGINT and SIGTERM for a while."""
    signals = StopSignals()
    before = {number: signal.signal(number, signals.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
