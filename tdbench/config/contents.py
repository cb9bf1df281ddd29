"""What decides a run's figures beside its settings: the files of its data set and of its weights, the user's own code.

A run's digest holds both, so that a run on other images, or with other code, is another run; and the run folder keeps
their parts by name, so that it can be said what has changed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from tdbench.config.data_sets import find_data_set
from tdbench.config.fingerprints import fingerprint, remembered
from tdbench.errors import ConfigError
from tdbench.user_code import expanded


class Parts(dict[str, str]):
    """What a data set or a piece of code consists of, by name, in words that change with it."""

    @cached_property
    def digest(self) -> str:
        """What stands for the parts in a run's identity, worked out once for thousands of trials; of one, its words."""
        return next(iter(self.values())) if len(self) == 1 else digest_of(self)


Contents = Mapping[str, Mapping[str, str]]  # the parts of each source: `data`, and the keys that name the user's files


def digest_of(value: Any) -> str:
    """Return 12 hexadecimal digits that change with plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def data_parts(name: str, root: Path) -> Parts | None:
    """Return the parts of a data set, none where they are the published ones; None: it cannot change, or is not there.

    They are looked at once, so that what a command plans, runs and writes down is the same data.
    """
    source = find_data_set(name)
    if source.contents is None:
        return None
    module, _, entry = source.contents.partition(":")
    parts = getattr(import_module(f"{__package__}.{module}"), entry)(source.place or Path(expanded(root)))
    return None if parts is None else Parts(parts)


@cache
def weights_parts(path: Path) -> Parts:
    """Return the size and a digest of a file of weights, looked at once likewise.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Parts(remembered(path, [str(path)], lambda: {"model.weights": fingerprint(str(path))}))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ConfigError(f"model.weights {path} {reason}") from error


_held: ContextVar[bool] = ContextVar("held", default=False)


def look_anew() -> None:
    """Forget what data sets and weights held; each call from Python starts so, unless `one_look` lasts."""
    if not _held.get():
        data_parts.cache_clear()
        weights_parts.cache_clear()


@contextmanager
def one_look() -> Iterator[None]:
    """Look at data once for as long as this lasts: a command, or a trial in its process, is about one state of them."""
    look_anew()
    token = _held.set(True)
    try:
        yield
    finally:
        _held.reset(token)


def as_far_as_known(now: Contents, before: Contents | None) -> Contents:
    """Return what there is now, with data that are gone as they were: it cannot be said that they have changed."""
    return {"data": before["data"], **now} if before and "data" in before else now


def changes(before: Contents, now: Contents) -> list[str]:
    """Return in words what differs between contents."""
    told = []
    for source in {**before, **now}:
        there, here = before.get(source, {}), now.get(source, {})
        told += [
            f"{part} is {there.get(part, 'missing')} there and {here.get(part, 'missing')} here"
            for part in {**there, **here}
            if there.get(part) != here.get(part)
        ]
    return told


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return in words which settings differ from those that a folder holds."""
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return [f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys]


def shortened(differences: Sequence[str], most: int = 4) -> str:
    """Return differences in a line, the first of them and the number of the others."""
    more = len(differences) - most
    return "; ".join(differences[:most]) + (f"; and {more} more" if more > 0 else "")
