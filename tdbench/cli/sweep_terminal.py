"""What a sweep looks like: one live table on a terminal, plain lines elsewhere, nothing where silence is asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tdbench.cli.console import console
from tdbench.cli.output import say, stdout
from tdbench.cli.terminal import LINE_EVERY_S, clock, describe
from tdbench.store.files import counted
from tdbench.store.progress import Progress, SweepObserver
from tdbench.store.rows import Decision, RunResult, TrialState
from tdbench.sweep.columns import form_of, joined_by, number, probability, value_words
from tdbench.sweep.points import Plan
from tdbench.sweep.runner import Sweep
from tdbench.sweep.slots import Slots
from tdbench.sweep.trials import Trials

_OUTCOME = {  # field of result.json or environment.json -> form
    "test_error_pct": "test error {:.2f} %",
    "test_error_pct_bn": "{:.2f} % with BatchNorm re-estimated",
    "test_error_pct_ema": "{:.2f} % with the average of the weights",
    "valid_error_pct": "{:.2f} % on the held-out images",
    "dropped_pct": "{:.3f} % dropped",
    "wall_s": "{:.1f} s",
    "train_img_per_s": "{:,.0f} images/s",
    "peak_mem_mib": "{:,.0f} MiB",
    "data_wait_pct": "{:.1f} % waiting for data",
}


class Words(Protocol):
    """What is said of trials that run: of a sweep's, or of a search's."""

    @property
    def trials(self) -> Trials:
        """The trials."""

    @property
    def goal(self) -> str:
        """What they run towards, after the time that is left."""

    def name(self, digest: str) -> str:
        """Return the name of a trial."""

    def heading(self, num_missing: int, num_at_once: int) -> str:
        """Return what there is to do, in a line."""

    def standings(self) -> list[str]:
        """Return how things stand, in lines, where more trials are to run."""

    def num_failed(self) -> int:
        """Return how many trials have ended without a result."""


class SweepWords:
    """What is said of a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.trials = self.sweep = sweep
        self._names = trial_names(sweep.plan)
        self.goal = "to go" if sweep.plan.experiment.first_look is None else "to the next look"

    def name(self, digest: str) -> str:
        return self._names[digest]

    def heading(self, num_missing: int, num_at_once: int) -> str:
        return heading(self.sweep, num_missing, num_at_once)

    def standings(self) -> list[str]:
        return standings(self.sweep)

    def num_failed(self) -> int:
        return sum(result.status is not TrialState.WAITING for result in self.sweep.unfinished().values())


class SilentSweep(SweepObserver):
    """Counts; says nothing.

    Attributes:
        running: Digest to how far the trial is, None where it has not said so yet.
    """

    def __init__(self, words: Words, slots: Slots) -> None:
        self.words, self.num_slots = words, len(slots.environments)
        self.running: dict[str, Progress | None] = {}
        self.begun: dict[str, float] = {}
        self.num_left = self.num_ended = 0
        self.started = time.monotonic()

    def began(self, num_trials: int) -> None:
        self.started, self.num_left = time.monotonic(), num_trials

    def went_on(self, num_trials: int) -> None:
        self.num_left += num_trials

    def trial_began(self, digest: str) -> None:
        self.running[digest], self.begun[digest] = None, time.monotonic()

    def trial_progressed(self, digest: str, progress: Progress) -> None:
        self.running[digest] = progress

    def trial_ended(self, digest: str, result: RunResult) -> None:
        self.running.pop(digest, None)
        self.num_ended += 1
        self.num_left -= result.status is not TrialState.WAITING  # which the same command goes on with

    def outcome(self, digest: str, result: RunResult) -> str:
        """Return how a trial ended, in a few words."""
        return outcome(result, self.words.trials.folder.trial(digest).read_environment().get("data_wait_pct"))

    def time_left(self) -> str:
        """Return the time that is left, from the trials so far and how far the running ones are."""
        parts = [progress.step / progress.num_steps for progress in self.running.values() if progress is not None]
        done = self.num_ended + sum(parts)
        if done < 0.1:
            return "-:--"
        return clock((time.monotonic() - self.started) / done * (self.num_left - sum(parts)))

    def counts(self) -> str:
        """Return done, failed and left in a few words."""
        done, failed = len(self.words.trials.done()), self.words.num_failed()
        return f"{done} done, {failed} failed, {self.num_left} left, {self.time_left()} {self.words.goal}"


class PlainSweep(SilentSweep):
    """Prints a line when a trial ends, and one every few seconds, free of control characters."""

    def __init__(self, words: Words, slots: Slots) -> None:
        super().__init__(words, slots)
        self._printed = time.monotonic()

    def began(self, num_trials: int) -> None:
        super().began(num_trials)
        say(self.words.heading(self.num_left, self.num_slots))

    def trial_ended(self, digest: str, result: RunResult) -> None:
        super().trial_ended(digest, result)
        say(f"{self.words.name(digest)}: {self.outcome(digest, result)}  ({self.counts()})")
        self._printed = time.monotonic()

    def went_on(self, num_trials: int) -> None:
        super().went_on(num_trials)
        for line in self.words.standings():
            say(line)

    def looked(self) -> None:
        if time.monotonic() - self._printed < LINE_EVERY_S:
            return
        self._printed = time.monotonic()
        for digest, progress in self.running.items():
            if progress is not None:
                say(f"  {self.words.name(digest)}  {position(progress)}")


class LiveSweep(SilentSweep):
    """Draws the running trials, and the counts below them."""

    def __init__(self, words: Words, slots: Slots) -> None:
        super().__init__(words, slots)
        self._console = console()
        self._live = Live(console=self._console, transient=True, auto_refresh=False)

    def began(self, num_trials: int) -> None:
        super().began(num_trials)
        self._console.print(self.words.heading(self.num_left, self.num_slots), style="dim")
        self._live.start()

    def trial_ended(self, digest: str, result: RunResult) -> None:
        super().trial_ended(digest, result)
        style = "" if result.is_done else "red"
        self._console.print(Text(f"{self.words.name(digest)}: {self.outcome(digest, result)}", style=style))

    def went_on(self, num_trials: int) -> None:
        super().went_on(num_trials)
        for line in self.words.standings():
            self._console.print(Text(line))

    def looked(self) -> None:
        grid = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None):  # the bar takes what the words leave
            grid.add_column(ratio=ratio, no_wrap=True)
        for digest, progress in self.running.items():
            if progress is None:
                running = clock(time.monotonic() - self.begun[digest])
                grid.add_row(self.words.name(digest), Text(f"running for {running}", style="dim"), "")
            else:
                bar = ProgressBar(total=progress.num_steps, completed=progress.step)
                grid.add_row(self.words.name(digest), bar, position(progress))
        num_done = len(self.words.trials.done())
        grid.add_row("all", ProgressBar(total=num_done + self.num_left, completed=num_done), self.counts())
        self._live.update(grid, refresh=True)

    def stop(self) -> None:
        """Take the drawing away."""
        self._live.stop()


@contextmanager
def watch_sweep(silent: bool, words: Words, slots: Slots) -> Iterator[SilentSweep]:
    """Return what suits the output: silence, a live table on a terminal, or plain lines."""
    if silent:
        yield SilentSweep(words, slots)
    elif not stdout().isatty():
        yield PlainSweep(words, slots)
    else:
        live = LiveSweep(words, slots)
        try:
            yield live
        finally:
            live.stop()


def trial_names(plan: Plan) -> dict[str, str]:
    """Return a name for each trial, by its digest: the values of its first point, and its seed."""
    found: dict[str, str] = {}
    baselines = {point.baseline for point in plan.points}
    for point in plan.points:
        value = value_words(point.values) + " (baseline)" * (point in baselines)
        for seed, digest in point.trials.items():
            found.setdefault(digest, f"{value}, seed {seed}")
    return found


def heading(sweep: Sweep, num_missing: int, num_at_once: int) -> str:
    """Return what there is to do, in a line."""
    experiment, num_done, num_trials = sweep.plan.experiment, len(sweep.done()), len(sweep.records)
    values, seeds = counted(len(sweep.plan.points), "value"), counted(len(experiment.seeds), "seed")
    trials, until = counted(num_trials, "trial"), ""
    if experiment.first_look is not None:
        seeds, trials = f"{experiment.first_look} to {seeds} each", f"at most {trials}"
        until = f" until the next look, at {looked_at(sweep)} seeds"
    return (
        f"{values} of {', '.join(sweep.plan.keys)}, {seeds}: {trials}, "
        f"{num_done} done before, {num_missing} to run{until}, {num_at_once} at once; {sweep.plan.subject()}; "
        f"{sweep.folder.path}"
    )


def looked_at(sweep: Sweep) -> int:
    """Return the seeds of the next look."""
    asked_for = set(sweep.asked_for())
    return max(sum(digest in asked_for for digest in point.trials.values()) for point in sweep.plan.points)


def standings(sweep: Sweep) -> list[str]:
    """Return how far each value is from its decision, a line each: p falls to 0.05, or the interval into ±Δ."""
    experiment = sweep.plan.experiment
    lines = [f"  {looked_at(sweep) - 1} of at most {len(experiment.seeds)} seeds:"]
    for row in sweep.tables().summary:
        if row.decision in (Decision.BASELINE, Decision.NO_BASELINE):
            continue
        difference = number(row.delta_vs_baseline, form_of(row))
        between = joined_by(" to ", row.delta_ci95_low, row.delta_ci95_high, form=form_of(row))
        lines.append(
            f"    {value_words(row.values)}: {row.decision}, {difference} ({between}), p {probability(row.p_holm)}, "
            f"n = {row.num_pairs}"
        )
    return lines


def position(progress: Progress) -> str:
    return (
        f"epoch {progress.epoch}/{progress.num_epochs}  {describe(progress)}  {progress.train_img_per_s:,.0f} images/s"
    )


def outcome(result: RunResult, data_wait_pct: float | None) -> str:
    """Return how a trial ended, in a few words."""
    if not result.is_done:
        return f"{result.status}: {result.error}" if result.error else "stopped, to go on"
    figures = {**result.to_tree(), "data_wait_pct": data_wait_pct}
    if result.metrics is not None:
        own = [f"{name} {figure:.6g}" for name, figure in result.metrics.items()]
        return ", ".join([*own, f"{result.wall_s or 0.0:.1f} s"])
    return ", ".join(form.format(figures[name]) for name, form in _OUTCOME.items() if figures[name] is not None)
