"""Loggers: where curves, results and verdicts go besides tdbench's own folders. Each is a module here.

A module is imported when its logger is used, in a thread of its own (see `guarded`); none knows torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from tdbench.errors import ConfigError, unknown


@dataclass(frozen=True)
class Package:
    """A logger before it is imported.

    Attributes:
        logger: `module:class` in this folder.
        at_least: The oldest release of its package that will do.
        distributions: The names under which pip may have installed that; the first is the extra's.
    """

    logger: str
    at_least: str
    distributions: tuple[str, ...]


LOGGERS = {
    "tensorboard": Package("tensorboard:TensorBoard", "2.16.2", ("tensorboard",)),
    "wandb": Package("wandb:Wandb", "0.24.2", ("wandb",)),
    "mlflow": Package("mlflow:MLflow", "2.9", ("mlflow", "mlflow-skinny")),
}


def loggers_named(log: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the loggers in `wandb,tensorboard`, or in several such texts, each once.

    Raises:
        ConfigError: It is no text; or one does not exist, its package is not installed, or is too old.
    """
    texts = [log] if isinstance(log, str) else () if log is None else log
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"log must be names of loggers, such as 'wandb,tensorboard', got {log!r}")
    names = tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(unknown("--log", name, LOGGERS))
        _check_installed(name, LOGGERS[name])
    return names


def _check_installed(name: str, package: Package) -> None:
    get = f'pip install -U "tdbench[{name}]"'
    found = next(filter(None, map(_version_of, package.distributions)), None)
    if found is None:
        raise ConfigError(f"--log {name} needs {name}, which is not installed: {get}")
    if _numbers(found) < _numbers(package.at_least):
        raise ConfigError(f"--log {name} needs {name} {package.at_least} or newer, got {found}: {get}")


def _version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:3]]
