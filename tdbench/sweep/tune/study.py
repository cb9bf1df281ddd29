"""The search itself, which is Optuna's. Each question is answered by a process of the lab, from Optuna's journal alone.

So nothing is lost with a process; and since the sampler of each candidate is seeded by the candidate's number, a search
that was killed goes on as it would have without.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdbench.store.files import read_file, write_atomically
from tdbench.sweep.tune.ranges import Range

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "gp", "random")


@dataclass(frozen=True)
class Question:
    """What identifies a study: the journal that it is in, its name, what it chooses from and how.

    Attributes:
        default: The defaults of the knobs that are searched; the first candidate, where they are in the ranges.
    """

    journal: Path
    name: str
    ranges: tuple[Range, ...]
    default: Mapping[str, Any]
    sampler: str
    seed: int

    @property
    def begins_with_default(self) -> bool:
        """Whether the default is among what may be chosen, so that it is the study's first candidate."""
        return len(encoded(self, self.default)) == len(self.ranges)


@dataclass(frozen=True)
class Suggestion:
    """A candidate as the study knows it.

    Attributes:
        number: From 0.
        values: Dotted key to value.
        state: `waiting` (the default, before it is asked for), `running`, `complete` or `fail`.
        value: What was told of it; None: nothing, or that it failed.
        began, ended: Seconds of the clock.
    """

    number: int
    values: dict[str, Any]
    state: str
    value: float | None
    began: float
    ended: float | None


def suggest(question: Question, told: Sequence[tuple[int, float | None]], more: int) -> list[Suggestion]:
    """Tell the study what candidates came to, ask it for more, and return all that it has.

    Args:
        question: The study; it is made where the journal has none.
        told: Candidates with their values, None for one that failed.
        more: How many further ones to ask for.
    """
    if not more and not told:
        return look(question)
    study = open_study(question)
    for number, value in told:
        tell(study, number, value)
    for _ in range(more):
        study.sampler = sampler_of(question, len(study.get_trials(deepcopy=False)))
        ask(study, question)
    return [seen(trial, question) for trial in study.get_trials(deepcopy=False)]


def look(question: Question) -> list[Suggestion]:
    """Return what a study has, without writing anything: another process may be at it."""
    with reading(question) as study:
        return [] if study is None else [seen(trial, question) for trial in study.get_trials(deepcopy=False)]


@contextmanager
def reading(question: Question) -> "Iterator[optuna.Study | None]":
    """Give a study of which nothing is changed, or None where there is none.

    A last line that a writer was killed in, or is writing, is not looked at.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    content = read_file(question.journal) if question.journal.exists() else b""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, question.journal.name)
        copy.write_bytes(content[: content.rfind(b"\n") + 1])
        backend = JournalFileBackend(str(copy), lock_obj=_Held())  # type: ignore[arg-type]
        study = None
        with suppress(KeyError):
            study = optuna.load_study(storage=JournalStorage(backend), study_name=question.name)
        yield study


def importance(question: Question) -> dict[str, float]:
    """Return how much of the variation each knob explains (fANOVA, Hutter et al. 2014); empty where that is unknown."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with reading(question) as study:
        trials = [] if study is None else study.get_trials(deepcopy=False)
        if study is None or len({trial.value for trial in trials if trial.value is not None}) < 2:
            return {}
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def open_study(question: Question) -> "optuna.Study":
    """Return the study as the journal holds it, to be written to: the caller's process holds the folder."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    mend(question.journal)
    backend = JournalFileBackend(str(question.journal), lock_obj=_Held())  # type: ignore[arg-type]
    study = optuna.create_study(
        storage=JournalStorage(backend), study_name=question.name, direction="minimize", load_if_exists=True
    )
    if question.begins_with_default and not study.get_trials(deepcopy=False):
        study.enqueue_trial(encoded(question, question.default))
    return study


class _Held:
    """The lock of a journal whose folder this process's parent holds already."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def mend(journal: Path) -> None:
    """Cut off a last line that a writer was killed in, to which the next one would be appended."""
    if not journal.exists():
        return
    content = read_file(journal)
    if content and not content.endswith(b"\n"):
        write_atomically(journal, content[: content.rfind(b"\n") + 1])


def sampler_of(question: Question, number: int) -> "optuna.samplers.BaseSampler":
    """Return the sampler of a candidate."""
    import warnings

    import optuna
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    seed = (question.seed * 1_000_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if question.sampler == "random":
            return RandomSampler(seed=seed)
        if question.sampler == "gp":
            return GPSampler(seed=seed, deterministic_objective=False)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def ask(study: "optuna.Study", question: Question) -> None:
    """Have the study choose another candidate."""
    trial = study.ask()
    for one in question.ranges:
        if one.choices:
            trial.suggest_categorical(one.key, list(range(len(one.choices))))
        elif one.is_whole:
            trial.suggest_int(one.key, int(one.low or 0), int(one.high or 0), log=one.is_log)
        else:
            trial.suggest_float(one.key, float(one.low or 0), float(one.high or 0), log=one.is_log)


def tell(study: "optuna.Study", number: int, value: float | None) -> None:
    """Tell what a candidate came to, unless the study knows."""
    from optuna.trial import TrialState

    if value is None:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    else:
        study.tell(number, value, skip_if_finished=True)


def encoded(question: Question, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the study holds them: a choice by its place in the list.

    Left out is what is not among the choices, or not in the range.
    """
    found: dict[str, Any] = {}
    for one in question.ranges:
        value = values.get(one.key)
        if one.choices:
            if value in one.choices:
                found[one.key] = one.choices.index(value)
        elif isinstance(value, (int, float)) and one.low <= value <= one.high:  # type: ignore[operator]
            found[one.key] = value
    return found


def seen(trial: "optuna.trial.FrozenTrial", question: Question) -> Suggestion:
    """Return a candidate in plain data."""
    values = {
        one.key: one.choices[trial.params[one.key]] if one.choices else trial.params[one.key]
        for one in question.ranges
        if one.key in trial.params
    }
    began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    ended = trial.datetime_complete.timestamp() if trial.datetime_complete else None
    return Suggestion(trial.number, values, trial.state.name.lower(), trial.value, began, ended)
