"""Trials as Slurm jobs, through submitit; each by itself, in the sweep folder, which the nodes share.

What submitit writes lies in `slurm/` of the trial's folder. A trial that is preempted, or whose time is up, saves
itself and its job is queued again. A driver that is killed leaves its jobs behind: the next one takes up those that are
still queued or run, and submits no trial beside them; what may start twice nevertheless, is kept apart by the lock of
the trial's folder.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdbench.errors import ConfigError, TdbenchError, line_of
from tdbench.store.assignment import Assignment, Ended, Event, Progressed, late
from tdbench.store.files import read_file
from tdbench.store.progress import Progress
from tdbench.store.rows import TrialState
from tdbench.sweep.slurm import DEFAULT_MIN, SlurmOptions, submitit_module
from tdbench.sweep.slurm_job import BEGUN, LOOK_EVERY_S, PLACE, PROGRESS, STOP, SlurmTrial

MOST_TIMEOUTS = 1000  # after which a trial whose time is up is not queued again


@dataclass
class RunningJob:
    """A trial and its job."""

    assignment: Assignment
    job: Any
    begun: float | None = None  # when it was first seen to run
    told: Progress | None = None

    @property
    def place(self) -> Path:
        """Where what submitit writes is, and what passes between job and driver."""
        return self.assignment.folder / PLACE


class SlurmExecutor:
    """Runs trials as Slurm jobs, each with what it asks for.

    Args:
        options: What that is.
        num_at_once: The most jobs that are queued or run at once.
        timeout_s: Seconds after its start when a trial is given up, None: never.

    Raises:
        ConfigError: submitit is not installed or too old, or there is no Slurm here.
    """

    def __init__(self, options: SlurmOptions, num_at_once: int, timeout_s: float | None = None) -> None:
        self._submitit, self._options = submitit_module(), options
        self._num_at_once, self._timeout_s = num_at_once, timeout_s
        self._running: dict[str, RunningJob] = {}
        self._looked = 0.0
        if options.cluster == "slurm" and self._submitit.SlurmExecutor.affinity() <= 0:
            raise ConfigError(
                "--executor slurm: there is no Slurm here (srun is not found); --slurm cluster=local tries it without"
            )

    @property
    def num_free(self) -> int:
        return self._num_at_once - len(self._running)

    def submit(self, assignment: Assignment) -> None:
        place = assignment.folder / PLACE
        place.mkdir(parents=True, exist_ok=True)
        for name in (STOP, BEGUN, PROGRESS):
            (place / name).unlink(missing_ok=True)
        job = self._left_behind(assignment, place) or self._submitted(assignment, place)
        self._running[assignment.digest] = RunningJob(assignment, job)

    def _submitted(self, assignment: Assignment, place: Path) -> Any:
        """Return a new job."""
        most = {f"{cluster}_max_num_timeout": MOST_TIMEOUTS for cluster in ("slurm", "local")}
        executor = self._submitit.AutoExecutor(place, cluster=self._options.cluster, **most)
        parameters = {"timeout_min": DEFAULT_MIN, **self._options.parameters}
        try:
            executor.update_parameters(name=f"tdbench-{assignment.digest}", **parameters)
            return executor.submit(SlurmTrial(assignment))
        except Exception as error:  # of sbatch, whose words are in it
            raise TdbenchError(f"Slurm does not take a trial's job: {line_of(error, with_type=False)}") from error

    def _left_behind(self, assignment: Assignment, place: Path) -> Any:
        """Return the job of a driver that is gone, if it is still queued or runs; any other of the trial is ended."""
        found = None
        for pickle in place.glob("*_submitted.pkl"):
            if self._options.cluster == "slurm":
                job = self._submitit.SlurmJob(place, pickle.name.removesuffix("_submitted.pkl"))
                if not assignment.fresh and found is None and not job.done(force_check=True):
                    found = job
                    continue
                job.cancel(check=False)
            pickle.unlink()  # without which a job that starts nevertheless does nothing
        return found

    def wait(self, timeout_s: float) -> list[Event]:
        if not self._running:
            return []
        time.sleep(max(0.0, min(timeout_s, self._looked + LOOK_EVERY_S - time.monotonic())))
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return []
        self._looked = time.monotonic()
        return [event for run in list(self._running.values()) for event in self._news(run)]

    def _news(self, run: RunningJob) -> list[Event]:
        digest, events = run.assignment.digest, list[Event]()
        if run.begun is None and (run.place / BEGUN).exists():
            run.begun = time.monotonic()
        with suppress(OSError, ValueError, TypeError):  # there is none yet
            told = Progress(**json.loads(read_file(run.place / PROGRESS)))
            if told != run.told:
                run.told = told
                events.append(Progressed(digest, told))
        if run.job.done():
            events.append(self._end_of(run))
        elif self._timeout_s is not None and run.begun is not None and self._looked - run.begun > self._timeout_s:
            run.job.cancel(check=False)
            events.append(Ended(digest, TrialState.FAILED, late(self._timeout_s)))
        if events and isinstance(events[-1], Ended):
            del self._running[digest]
        return events

    def _end_of(self, run: RunningJob) -> Ended:
        """Return how a job ended; one without a result goes on when it is run again."""
        digest, job = run.assignment.digest, run.job
        try:
            ended: Ended = job.result()
        except Exception:  # of submitit: the job was cancelled or killed, or its Python could not begin
            if (run.place / STOP).exists():
                return Ended(digest, TrialState.WAITING)
            log = job.paths.stderr if job.paths.stderr.exists() else job.paths.stdout
            reason = f"its job {job.job_id} ended without a result ({job.state}); see {log}"
            return Ended(digest, TrialState.KILLED, reason)
        return ended

    def stop(self) -> None:
        """Ask the jobs that run to save and stop, and take the others out of the queue."""
        for run in self._running.values():
            with suppress(OSError):
                (run.place / STOP).touch()
            is_queued = self._options.cluster == "slurm" and not (run.place / BEGUN).exists()
            if is_queued:
                run.job.cancel(check=False)

    def close(self) -> None:
        for run in self._running.values():
            with suppress(OSError):
                (run.place / STOP).touch()  # so that one that starts nevertheless ends at once
            run.job.cancel(check=False)
        self._running.clear()
