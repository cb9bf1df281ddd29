"""Trials as Ray tasks, on this machine or on a cluster that has tdbench installed.

Where the sweep folder is shared, a trial works in it as a local one does, and goes on from its checkpoint when Ray
runs it again after a lost node. Elsewhere it works in a folder of its own, and its files come back with its end.
"""

import hashlib
import logging
import re
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tdbench.errors import ConfigError, line_of
from tdbench.store.files import read_file, write_atomically
from tdbench.store.folders import RESULT, SWEEP, TUNE, RunFolder

MAX_RETRIES = 3  # of a trial whose worker or node was lost
CONNECT_S = 5.0
ASK_EVERY_S = 1.0  # how often a trial asks whether it should stop

Files = dict[str, bytes]


class RayTasks:
    """Runs assignments as Ray tasks.

    Args:
        run: Runs one where it has landed; see `run_remotely`.
        num_at_once: How many a Ray of this machine's own is to have room for.
        threads: CPU threads of each.
        gpu_share: Share of a GPU of each.
        address: The cluster, `auto` for the one that this machine belongs to; None: a Ray of this machine's own.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address, or none of its nodes suffices.
    """

    def __init__(
        self, run: Callable[..., Any], num_at_once: int, threads: int, gpu_share: float, address: str | None = None
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError('--executor ray needs Ray, which is not installed: pip install "tdbench[ray]"') from None
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            options["num_cpus"] = threads * num_at_once
        check_reachable(address)
        try:
            ray.init(address or "local", **options)
        except Exception as error:  # whatever keeps it from a cluster
            raise ConfigError(f"--ray-address {address}: no Ray can be reached there ({error})") from error
        self._ray: Any = ray
        self._needs = {"num_cpus": threads, "num_gpus": gpu_share}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = {"CPU": threads, "GPU": gpu_share}
        if not any(all(node.get(what, 0) >= number for what, number in needs.items()) for node in nodes):
            ray.shutdown()
            raise ConfigError(f"no node of the Ray cluster has what a trial needs: {self._needs}; see --threads")
        self._run = run
        self._trial: Any = self._ray.remote(max_retries=MAX_RETRIES, **self._needs)(run_remotely)
        self._board: Any = self._ray.remote(num_cpus=0)(Board).remote()
        self._running: dict[Any, tuple[Any, float]] = {}

    def num_free(self) -> int:
        """Return how many more tasks the cluster, as large as it is now, can run at once."""
        has = self._ray.cluster_resources()
        places = has.get("CPU", 0) // self._needs["num_cpus"]
        if self._needs["num_gpus"]:
            places = min(places, has.get("GPU", 0) // self._needs["num_gpus"])
        return max(0, int(places) - len(self._running))

    def submit(self, assignment: Any) -> None:
        """Begin an assignment as a task."""
        folder = RunFolder(assignment.folder)
        saved = {} if assignment.fresh else {name: read_file(folder / name) for name in folder.files()}
        task = self._trial.remote(self._run, assignment, mark_of(assignment.folder), saved, self._board)
        self._running[task] = assignment, time.monotonic()

    def news(self) -> list[Any]:
        """Return what the tasks have posted since the last call."""
        return self._ray.get(self._board.news.remote())

    def over(self, timeout_s: float) -> list[tuple[Any, Any, str | None]]:
        """Return the assignments that are over within the time: each with its end, or with why there is none."""
        if not self._running:
            time.sleep(timeout_s)
            return []
        over, _ = self._ray.wait(list(self._running), timeout=timeout_s)
        return [self._end_of(task, self._running.pop(task)[0]) for task in over]

    def _end_of(self, task: Any, assignment: Any) -> tuple[Any, Any, str | None]:
        try:
            ended, files = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            return assignment, None, f"its worker was lost {MAX_RETRIES + 1} times: {line_of(error)}"
        if files:
            assignment.folder.mkdir(parents=True, exist_ok=True)
            for name in sorted(files, key=lambda name: name == RESULT):  # what says that it is over comes last
                write_atomically(assignment.folder / name, files[name])
        return assignment, ended, None

    def give_up(self, timeout_s: float) -> list[Any]:
        """End the tasks that have run for longer, and return their assignments."""
        late = [task for task, (_, began) in self._running.items() if time.monotonic() - began > timeout_s]
        for task in late:
            self._ray.cancel(task, force=True)
        return [self._running.pop(task)[0] for task in late]

    def stop(self) -> None:
        """Ask the running tasks to save and stop."""
        self._ray.get(self._board.stop.remote())

    def close(self) -> None:
        """End whatever still runs, and leave the cluster."""
        for task in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task, force=True)
        self._ray.shutdown()


def check_reachable(address: str | None) -> None:
    """Raise ConfigError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address or "")
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--ray-address {address}: no Ray can be reached there ({error})") from error


class Board:
    """An actor between trials and the driver: their progress, and its wish that they stop."""

    def __init__(self) -> None:
        self._news: dict[str, Any] = {}
        self._stop = False

    def post(self, event: Any) -> None:
        """Note the latest of a trial."""
        self._news[event.digest] = event

    def news(self) -> list[Any]:
        """Return what was posted since the last call."""
        news, self._news = list(self._news.values()), {}
        return news

    def stop(self) -> None:
        """Let every trial that asks know that it should stop."""
        self._stop = True

    def should_stop(self) -> bool:
        """Return whether trials should save and stop."""
        return self._stop


def run_remotely(run: Callable[..., Any], assignment: Any, mark: str, saved: Files, board: Any) -> tuple[Any, Files]:
    """Run a trial in a Ray worker; return how it ended, and its files where the folder is not shared.

    Args:
        run: Runs an assignment, given what hears of it and what says that it should stop; returns how it ended.
        assignment: The trial.
        mark: What `mark_of` says of the folder on the driver.
        saved: The files of the trial as the driver has them.
        board: The actor that hears of the progress.
    """
    import ray

    asked, answer = time.monotonic(), False

    def should_stop() -> bool:
        nonlocal asked, answer
        if time.monotonic() - asked > ASK_EVERY_S:
            asked, answer = time.monotonic(), ray.get(board.should_stop.remote())
        return answer

    def post(event: Any) -> None:
        board.post.remote(event)

    if mark and mark_of(assignment.folder) == mark:
        return run(assignment, post, should_stop), {}
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        for name, content in saved.items():
            write_atomically(folder / name, content)
        ended = run(replace(assignment, folder=folder.path), post, should_stop)
        return ended, {name: read_file(folder / name) for name in folder.files()}


def mark_of(trial_folder: Path) -> str:
    """Return what tells whether a trial's folder belongs to the same sweep or search here as elsewhere; or nothing."""
    for name in (SWEEP, TUNE):
        with suppress(OSError):
            return hashlib.sha256(read_file(trial_folder.parents[1] / name)).hexdigest()
    return ""
