"""Trials on Ray. Its driver is a process of the lab; here are the orders to it and the news from it."""

from contextlib import suppress
from multiprocessing.connection import Connection

from tdbench.errors import TdbenchError
from tdbench.store.assignment import Assignment, Event
from tdbench.sweep import lab
from tdbench.sweep.executors import GRACE_S
from tdbench.sweep.slots import GPUS, Slots


class RayExecutor:
    """Runs trials as Ray tasks.

    Args:
        slots: The CPU threads and the share of a GPU that each trial needs.
        address: The cluster, `auto` for the one that this machine belongs to; None: a Ray of this machine's own.
        timeout_s: Seconds after which a trial is given up, None: never.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, slots: Slots, address: str | None = None, timeout_s: float | None = None) -> None:
        needs = len(slots.environments), slots.threads or 1, slots.gpu_share, address
        gpus = dict.fromkeys(one[GPUS] for one in slots.environments if GPUS in one)
        environment = {GPUS: ",".join(gpus)} if gpus and address is None else {}  # a cluster knows its own
        self._process, self._link = lab.start_process("tdbench.sweep.worker:drive_ray", needs, timeout_s, environment)
        self._num_submitted = self._num_seen = self._num_free = 0
        self._news: list[Event] = []
        self._link.poll(None)  # the first word: there is a cluster, or why not
        self._hear(self._link)

    @property
    def num_free(self) -> int:
        return max(0, self._num_free - (self._num_submitted - self._num_seen))

    def submit(self, assignment: Assignment) -> None:
        self._num_submitted += 1
        self._link.send(assignment)

    def wait(self, timeout_s: float) -> list[Event]:
        if self._link.poll(timeout_s):
            self._hear(self._link)
        news, self._news = self._news, []
        return news

    def _hear(self, link: Connection) -> None:
        """Take in what Ray's driver has said.

        Raises:
            TdbenchError: It has failed.
        """
        try:
            while link.poll():
                said = link.recv()
                if isinstance(said, Exception):
                    raise said
                self._num_seen, self._num_free, events = said
                self._news += events
        except EOFError:
            self._process.join(GRACE_S)
            raise TdbenchError(f"Ray's driver ended by itself with exit code {self._process.exitcode}") from None

    def stop(self) -> None:
        """Ask the running trials to save and stop."""
        self._link.send("stop")

    def close(self) -> None:
        with suppress(OSError):
            self._link.send("close")
        self._process.join(GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
