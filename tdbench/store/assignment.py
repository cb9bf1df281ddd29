"""What passes between the process that drives a sweep and those of its trials."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tdbench.store.progress import Progress
from tdbench.store.rows import TrialState


@dataclass(frozen=True)
class Log:
    """Where the curves of trials are written too.

    Attributes:
        names: Loggers.
        group: The id of the sweep there.
    """

    names: tuple[str, ...] = ()
    group: str | None = None


NOWHERE = Log()


@dataclass(frozen=True)
class Assignment:
    """One trial, as it travels to its process.

    Attributes:
        digest: Its name.
        config: What is run, as plain data.
        folder: Its run folder.
        fresh: Start over.
        log: Where curves are written too.
        environment: Variables of its process, such as the GPU that it sees.
        target: The module that runs it; None: it is tdbench's own training.
    """

    digest: str
    config: dict[str, Any]
    folder: Path
    fresh: bool = False
    log: Log = NOWHERE
    environment: dict[str, str] = field(default_factory=dict)
    target: str | None = None


@dataclass(frozen=True)
class Progressed:
    """A trial has come so far."""

    digest: str
    progress: Progress


@dataclass(frozen=True)
class Ended:
    """A trial's process has nothing more to do: it is done, diverged, failed or killed, or waits, stopped and saved.

    Attributes:
        no_room: It found a disk full, as the other trials would.
        notes: What the user may want to know beside it.
    """

    digest: str
    status: TrialState
    reason: str | None = None
    no_room: bool = False
    notes: tuple[str, ...] = ()


Event = Progressed | Ended


def late(timeout_s: float) -> str:
    """Return why a trial was given up that ran for too long."""
    return f"ran past {timeout_s:g} s (--trial-timeout)"
