"""What a command does before it imports torch: a sign of life, and what torch's threads have to be told beforehand."""

import os
import sys
import time
from pathlib import Path

from tdbench.cli.terminal import say

BUSY = 0.5  # cores that others keep busy, from where on they count
LEAST_S = 0.1  # over which that is measured
_CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


class Start:
    """The beginning of a command, from where on the machine's load is measured."""

    def __init__(self) -> None:
        self._wall_s, self._busy_s = time.perf_counter(), others_s()

    def announce(self, what: str, silent: bool, threads: int | None = None) -> None:
        """Say what is being loaded, unless torch is here already, and spare the CPU of a shared machine.

        Args:
            what: What is being loaded, in a few words.
            silent: Say nothing.
            threads: Those that torch is to have; None: as many as there are cores.
        """
        if "torch" in sys.modules:
            return
        if not silent:
            say(f"loading {what} ...")
        self.spare_cpu(threads)

    def spare_cpu(self, threads: int | None) -> None:
        """Let OpenMP's threads sleep while they wait, where others want the cores; before torch is loaded.

        By default they spin, which is fastest on an idle machine; on a busy one it takes the time of everybody else,
        and of the thread that they wait for. What the user has set stays.
        """
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        others = self.others_busy()
        is_shared = others > BUSY and others + (threads or num_cores) > num_cores + BUSY
        if is_shared and not any(name in os.environ for name in _CHOSEN_BY_USER):
            os.environ["GOMP_SPINCOUNT"] = "0"

    def others_busy(self) -> float:
        """Return how many cores other processes have kept busy since the start; 0 where the system does not say."""
        time.sleep(max(0.0, LEAST_S - (time.perf_counter() - self._wall_s)))
        now_s = others_s()
        if now_s is None or self._busy_s is None:
            return 0.0
        return (now_s - self._busy_s) / (time.perf_counter() - self._wall_s)


def others_s() -> float | None:
    """Return the CPU seconds that all processes but this one have used since the system's start; None: unknown."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        ticks = list(map(int, fields))
        idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
        return (sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK") - time.process_time()
    except (OSError, ValueError, IndexError):
        return None
