"""Ctrl-C, SIGTERM and SIGHUP: once to save and stop, twice to stop at once."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignals:
    """Notes the wish to stop; until there is something to save, a signal interrupts at once."""

    def __init__(self) -> None:
        self._graceful = False
        self._requested = False

    def be_graceful(self) -> None:
        """From now on, let the first signal only be noted.

        Raises:
            KeyboardInterrupt: One came before, and Python could not raise it where it fell, as after a fork.
        """
        if self._requested:
            raise KeyboardInterrupt
        self._graceful = True

    def stop_requested(self) -> bool:
        """Return whether a signal came."""
        return self._requested

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; raise KeyboardInterrupt for the second, or where there is nothing to save."""
        again, self._requested = self._requested, True
        if again or not self._graceful:
            raise KeyboardInterrupt
        if sys.stderr.isatty():
            sys.stderr.write("\nstopping, and saving what is done; once more stops at once\n")


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handle the signals for a while; SIGHUP stays ignored where it is, as under nohup."""
    signals = StopSignals()
    heeded = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, signals.handle) for number in heeded}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
