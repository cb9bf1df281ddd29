"""What Slurm jobs ask for, and submitit, which submits them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import Any

from tdbench.errors import ConfigError, unknown

OLDEST = (1, 5)  # of submitit
MOST_JOBS = 32  # queued or running at once, where --jobs does not say
DEFAULT_MIN = 240  # minutes of a job; a trial that takes longer goes on in the next one
CLUSTERS = ("slurm", "local", "debug")

# --slurm KEY -> submitit's name for it; `cluster` is none of these.
OPTIONS = {
    "partition": "slurm_partition",
    "time": "timeout_min",
    "memory": "mem_gb",
    "gpus": "gpus_per_node",
    "cpus": "cpus_per_task",
    "account": "slurm_account",
    "qos": "slurm_qos",
    "constraint": "slurm_constraint",
}


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks for.

    Attributes:
        cluster: `slurm`; `local`: processes of this machine, to try it; `debug`: one after another in this process.
        parameters: By submitit's names.
    """

    cluster: str = "slurm"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cpus(self) -> int | None:
        """The CPUs of a job, if they were asked for."""
        return self.parameters.get("cpus_per_task")


def slurm_options(given: str | Mapping[str, Any] | None) -> SlurmOptions:
    """Return what jobs ask for, from `partition=gpu,time=2:00:00,memory=16G,gpus=1,cpus=4` or a table of that.

    Raises:
        ConfigError: It is neither; a key is unknown, or a value is no number, time or size.
    """
    if given is None:
        return SlurmOptions()
    if not isinstance(given, (str, Mapping)):
        raise ConfigError(f"slurm must be a table or a text such as 'partition=gpu,cpus=4', got {given!r}")
    pairs = given.items() if isinstance(given, Mapping) else [part.partition("=")[::2] for part in given.split(",")]
    cluster, parameters = "slurm", {}
    for key, value in pairs:
        if key == "cluster" and value in CLUSTERS:
            cluster = str(value)
        elif key == "cluster":
            raise ConfigError(unknown("--slurm cluster", str(value), CLUSTERS))
        elif key not in OPTIONS:
            raise ConfigError(unknown("--slurm option", str(key), [*OPTIONS, "cluster"]))
        else:
            parameters[OPTIONS[key]] = _READERS.get(key, _text)(key, str(value))
    return SlurmOptions(cluster, parameters)


def _text(key: str, value: str) -> str:
    if not value:
        raise ConfigError(f"--slurm {key} must have a value: {key}=VALUE")
    return value


def _count(key: str, value: str) -> int:
    least = 0 if key == "gpus" else 1
    if not value.isdecimal() or int(value) < least:
        raise ConfigError(f"--slurm {key} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def _minutes(key: str, value: str) -> int:
    """Return whole minutes of `90`, `1:30:00` or `2-00:00:00`."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", value)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0, 0)
    total = int(value) if value.isdecimal() else (days * 24 + hours) * 60 + minutes + (seconds > 0)
    if total < 1:
        raise ConfigError(f"--slurm time must be minutes, H:MM:SS or D-HH:MM:SS, more than 0, got {value!r}")
    return total


def _gigabytes(key: str, value: str) -> float:
    """Return the GB of `16`, `16G` or `500M`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([GMT]?)B?", value, re.IGNORECASE)
    size = float(found[1]) * {"M": 1 / 1024, "": 1, "G": 1, "T": 1024}[found[2].upper()] if found else 0.0
    if size <= 0:
        raise ConfigError(f"--slurm memory must be a size such as 16G or 500M, got {value!r}")
    return size


_READERS: dict[str, Callable[[str, str], Any]] = {
    "time": _minutes,
    "memory": _gigabytes,
    "gpus": _count,
    "cpus": _count,
}


def submitit_module() -> Any:
    """Return submitit.

    Raises:
        ConfigError: It is not installed, or too old.
    """
    try:
        found = import_module("submitit")
    except ImportError:
        raise ConfigError(
            '--executor slurm needs submitit, which is not installed: pip install "tdbench[slurm]"'
        ) from None
    here = version("submitit")
    if tuple(map(int, re.findall(r"\d+", here)[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(
            f'--executor slurm needs submitit {oldest} or newer, got {here}: pip install "tdbench[slurm]"'
        )
    return found
