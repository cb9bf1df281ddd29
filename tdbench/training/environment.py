"""The environment of a run: versions, machine, commit, command line."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tdbench
from tdbench.training.hardware import Hardware, describe_machine
from tdbench.training.parallel import ALONE, Processes

_PACKAGES = ("torchvision", "numpy", "pydantic", "scikit-learn")


def describe_environment(
    hardware: Hardware, processes: Processes = ALONE, data_wait_pct: float | None = None
) -> dict[str, Any]:
    """Return the contents of `environment.json`; `data_wait_pct` is None until the run is over."""
    return {
        "tdbench": tdbench.__version__,
        "git_commit": git_commit(),
        "command": sys.argv,
        **describe_machine(hardware),
        "processes": processes.count,
        "data_wait_pct": data_wait_pct,
        "packages": {name: installed_version(name) for name in _PACKAGES},
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of tdbench's source, with `-dirty` where it was changed since; None if not a checkout."""
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=source,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
