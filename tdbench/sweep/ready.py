"""The experiments that come with tdbench."""

from pathlib import Path

from tdbench.errors import ConfigError, nearest


def found_file(path: Path) -> Path:
    """Return the path of an experiment, which may come with tdbench.

    Raises:
        ConfigError: There is none of this name.
    """
    found = packaged(path)
    if not found.exists() and may_be_ready(path):
        ready = sorted({file.name for file in ready_experiments()})
        raise ConfigError(f"config file {path} does not exist{nearest(path.name, ready)} (ready: {', '.join(ready)})")
    return found


def packaged(path: Path) -> Path:
    """Return the path of an experiment that comes with tdbench where there is no such file here."""
    if path.exists() or not may_be_ready(path):
        return path
    return next((file for file in ready_experiments() if file.name == path.name), path)


def may_be_ready(path: Path) -> bool:
    """Return whether a path may mean an experiment that comes with tdbench."""
    return path.parent in (Path("ablations"), Path())


def ready_experiments() -> list[Path]:
    """Return the experiments that come with tdbench: in its package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    return sorted([*package.glob("ablations/*.yaml"), *package.parent.glob("ablations/*.yaml")])
