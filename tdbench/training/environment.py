"""The environment of a run: versions, machine, commit, command line."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tdbench
from tdbench.training.hardware import Hardware, describe_machine
from tdbench.training.parallel import ALONE, Processes
from tdbench.user_code import path_of, short_name

SOURCE = Path(__file__).parents[2]  # a checkout, or where pip puts packages
_PACKAGES = ("torchvision", "numpy", "pydantic", "scikit-learn")


def describe_environment(hardware: Hardware, processes: Processes = ALONE, code: Iterable[str] = ()) -> dict[str, Any]:
    """Return the contents of `environment.json` as far as they are known at the beginning.

    Args:
        hardware: What the run computes on.
        processes: Those that train it.
        code: The user's own networks and methods in it, `file.py:NAME`.
    """
    return {
        "tdbench": tdbench.__version__,
        "git_commit": git_commit(SOURCE) if (SOURCE / ".git").exists() else None,
        "command": sys.argv,
        **describe_machine(hardware),
        "processes": processes.count,
        "data_wait_pct": None,
        "packages": {name: installed_version(name) for name in _PACKAGES},
        "code_commits": {short_name(name): git_commit(path_of(name).parent) for name in code},
    }


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit(folder: Path) -> str | None:
    """Return the commit of the checkout that a folder lies in, with `-dirty` where it was changed since, or None."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
