"""What a command does before it imports torch: a sign of life, and what torch's threads have to be told beforehand."""

import os
import sys
import time
from pathlib import Path

from tdbench.cli.output import say

BUSY = 0.5  # cores that others keep busy, from where on they count
LEAST_S = 0.1  # over which that is measured
SPINS = "40000"  # turns that a waiting thread spins for before it sleeps: about half a millisecond
_CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


class Start:
    """The beginning of a command, from where on the machine's load is measured."""

    def __init__(self) -> None:
        self._wall_s, self._busy_s = time.perf_counter(), others_s()
        self._is_announced = False

    def announce(self, what: str, silent: bool, threads: int | None = None) -> None:
        """Say once what is being loaded, unless torch is here already, and spare the CPU of a shared machine.

        Args:
            what: What is being loaded, in a few words.
            silent: Say nothing.
            threads: Those that torch is to have; None: as many as there are cores.
        """
        if self._is_announced or "torch" in sys.modules:
            return
        self._is_announced = True
        if not silent:
            say(f"loading {what} ...")
        self.spare_cpu(threads)

    def spare_cpu(self, threads: int | None) -> None:
        """Let OpenMP's threads wait for a short time only before they sleep, where others want the cores.

        By default they spin for several milliseconds, which on a busy machine takes the time of everybody else, and of
        the thread that they wait for; threads that sleep at once wake too late for the many short operations of a step
        (benchmarks/results/load_cpu.csv). It must be set before torch is loaded. What the user has set stays.
        """
        num_cores = len(cores())
        others = self.others_busy()
        is_shared = others > BUSY and others + (threads or num_cores) > num_cores + BUSY
        if is_shared and not any(name in os.environ for name in _CHOSEN_BY_USER):
            os.environ["GOMP_SPINCOUNT"] = SPINS

    def others_busy(self) -> float:
        """Return how many cores other processes have kept busy since the start; 0 where the system does not say."""
        time.sleep(max(0.0, LEAST_S - (time.perf_counter() - self._wall_s)))
        now_s = others_s()
        if now_s is None or self._busy_s is None:
            return 0.0
        return (now_s - self._busy_s) / (time.perf_counter() - self._wall_s)


def cores() -> set[int]:
    """Return the cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def others_s() -> float | None:
    """Return the seconds that others kept this process's cores busy since the system's start; None: unknown."""
    names = {f"cpu{number}" for number in cores()}
    busy = 0
    try:
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name in names:
                ticks = list(map(int, fields[:8]))
                busy += sum(ticks) - ticks[3] - ticks[4]  # idle, and waiting for a disk
        return busy / os.sysconf("SC_CLK_TCK") - time.process_time()
    except (OSError, ValueError, IndexError):
        return None
