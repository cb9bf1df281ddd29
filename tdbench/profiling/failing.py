"""User methods that raise while they are measured: each becomes a row without figures, and the others go on."""

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tdbench.errors import TdbenchError, line_of
from tdbench.profiling.timing import MeasurementFailed
from tdbench.user_code import is_user_code, load_object, short_name

T = TypeVar("T")

FAILED = "failed"  # status of such a method


def without_failing(
    methods: Sequence[str], failures: dict[str, str], measure: Callable[[list[str]], T]
) -> tuple[T, list[str]]:
    """Measure all methods, repeating without any user method that raises; return figures and failed methods.

    Args:
        methods: Names of the methods.
        failures: Filled with the error messages of the failed methods, by name.
        measure: Measures the methods that it is given.

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
    """Return the user method that an error came from, and record its message; None if it came from none."""
    error = failure.error
    for name in filter(is_user_code, names):
        file = inspect.getfile(load_object(name))  # not the file named, where that only imports the class
        inside = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if inside:
            failures.setdefault(name, f"{line_of(error)} ({Path(file).name}, line {inside[-1].lineno})")
            return name
        if failure.method == name:  # its return value was invalid
            failures.setdefault(name, str(error) if isinstance(error, TdbenchError) else line_of(error))
            return name
    return None


def failure_line(failures: Mapping[str, str]) -> str:
    """Return the failed user methods and their errors, in one line."""
    return "; ".join(f"{short_name(name)} failed: {words}" for name, words in failures.items())


def no_figures(method: str) -> dict[str, Any]:
    """Return the table cells of a user method that raised."""
    return {"method": method, "n": 0, "status": FAILED}
