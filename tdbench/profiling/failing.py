"""A method of the user's that raises while it is measured: it becomes a row without figures, and the others go on."""

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tdbench.errors import TdbenchError, line_of
from tdbench.profiling.timing import MeasurementFailed
from tdbench.user_code import is_user_code, load_object, short_name

T = TypeVar("T")

FAILED = "failed"  # their status


def without_failing(
    methods: Sequence[str], failures: dict[str, str], measure: Callable[[list[str]], T]
) -> tuple[T, list[str]]:
    """Measure all methods, and again without one of the user's that raises; return the figures and who raised.

    Args:
        methods: Names.
        failures: Filled with the words of those that raised, by name.
        measure: Measures those that it is given.

    Raises:
        TdbenchError: No method is left.
    """
    names, failed = list(methods), list[str]()
    while True:
        try:
            return measure(names), failed
        except MeasurementFailed as failure:
            name = note_failure(failures, failure, names)
            if name is None:
                raise failure.error from failure.error.__cause__
            failed.append(name)
            names.remove(name)
            if not names:
                raise TdbenchError(failure_line(failures)) from failure.error


def note_failure(failures: dict[str, str], failure: MeasurementFailed, names: Sequence[str]) -> str | None:
    """Return the method of the user's that an error came from, and keep its words; None: it was no such."""
    error = failure.error
    for name in filter(is_user_code, names):
        file = inspect.getfile(load_object(name))  # a neighbour of the file named, where that only imports the class
        inside = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if inside:
            failures.setdefault(name, f"{line_of(error)} ({Path(file).name}, line {inside[-1].lineno})")
            return name
        if failure.method == name:  # what it returned was no good
            failures.setdefault(name, str(error) if isinstance(error, TdbenchError) else line_of(error))
            return name
    return None


def failure_line(failures: Mapping[str, str]) -> str:
    """Return which of the user's methods failed with what, in one line."""
    return "; ".join(f"{short_name(name)} failed: {words}" for name, words in failures.items())


def no_figures(method: str) -> dict[str, Any]:
    """Return the cells of a method of the user's that raised."""
    return {"method": method, "n": 0, "status": FAILED}
