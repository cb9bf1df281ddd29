"""The run folder and the sweep folder: their files, their columns, and how they are written, whole or not at all."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from tdbench.errors import FolderError

CONFIG, ENVIRONMENT, METRICS, RESULT = "config.yaml", "environment.json", "metrics.csv", "result.json"
CHECKPOINT, LOCK = "checkpoint.pt", ".lock"
SWEEP, TRIALS, TRIALS_TABLE, SUMMARY_TABLE = "sweep.yaml", "trials", "trials.csv", "summary.csv"
SUMMARY_TEXT, PLOT_PNG, PLOT_SVG = "summary.md", "plot.png", "plot.svg"

Status = Literal["done", "diverged", "failed"]

METRICS_COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_error_pct",
    "test_loss",
    "test_error_pct",
    "dropped_pct",
    "train_img_per_s",
    "epoch_s",
    "peak_mem_mib",
)
RESULT_FIELDS = (
    "status",
    "digest",
    "seed",
    "epochs",
    "test_error_pct",
    "best_test_error_pct",
    "train_error_pct",
    "dropped_pct",
    "train_img_per_s",
    "wall_s",
    "peak_mem_mib",
    "error",
)
SUMMARY_COLUMNS = (
    "n",
    "test_error_pct_mean",
    "test_error_pct_std",
    "ci95_low",
    "ci95_high",
    "delta_vs_baseline",
    "delta_ci95_low",
    "delta_ci95_high",
    "p_value",
    "p_holm",
    "verdict",
    "dropped_pct",
    "train_img_per_s",
)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, meets the old content or the new, never a part.

    Raises:
        FolderError: The file cannot be written; the old content is untouched.
    """
    unfinished = temporary(path)
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise FolderError(f"cannot write {path}: {error.strerror or error}; what was there before is intact") from error


def write_if_new(path: Path, content: bytes) -> bool:
    """Write a file unless it holds that already; return whether it was written."""
    if path.exists() and path.read_bytes() == content:
        return False
    write_atomically(path, content)
    return True


def temporary(path: Path) -> Path:
    """Return where the next content of a file is written until it is whole."""
    return path.with_name(f".{path.name}.tmp")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held(folder: Path, patience_s: float = 0) -> Iterator[None]:
    """Make a folder and hold it for this process; the system lets go of it when the process dies.

    Args:
        folder: Where the results go.
        patience_s: How long to wait for another process that holds it.

    Raises:
        FolderError: It is a file, cannot be written, or another process holds it.
    """
    lock = FileLock(folder / LOCK, timeout=patience_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (FileExistsError, NotADirectoryError):
        raise no_folder(folder) from None
    except Timeout:
        raise FolderError(f"{folder} is in use by another process; wait for it or take another --out") from None
    except OSError as error:
        raise FolderError(f"cannot write to {folder}: {error.strerror or error}; take another --out") from error
    try:
        yield
    finally:
        lock.release()


def no_folder(path: Path) -> FolderError:
    """Return the error of an `--out` that cannot be a folder."""
    return FolderError(f"--out {path} must be a folder, and is a file or lies under one")


def read_tree(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a YAML file that tdbench wrote, or None where there is none.

    Raises:
        FolderError: The file is not one that tdbench wrote.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise no_folder(path.parent) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FolderError(f"{path} cannot be read; delete it, or take another --out") from error
    if not isinstance(tree, dict):
        raise FolderError(f"{path} is not one that tdbench wrote; take another --out")
    return tree


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Return a mapping as YAML, its keys in their order."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


class SweepFolder:
    """One sweep on disk: `trials/<digest>/` are run folders, and the tables follow from them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def trial(self, digest: str) -> "RunFolder":
        """Return the run folder of a trial."""
        return RunFolder(self.path / TRIALS / digest)

    def read_sweep(self) -> dict[str, Any] | None:
        """Return the tree in `sweep.yaml`, or None where there is none."""
        return read_tree(self / SWEEP)

    def write_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Write what is swept."""
        write_atomically(self / SWEEP, to_yaml(sweep).encode())

    def write_trials(self, keys: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bool:
        """Write a row per trial: which, swept keys, then what `result.json` says; return whether the table is new."""
        fields = [field for field in RESULT_FIELDS if field not in ("status", "seed")]
        return write_if_new(self / TRIALS_TABLE, to_csv(rows, ["trial", "status", "seed", *keys, *fields]).encode())

    def write_summary(self, keys: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bool:
        """Write a row per value; return whether the table is new."""
        return write_if_new(self / SUMMARY_TABLE, to_csv(rows, [*keys, *SUMMARY_COLUMNS]).encode())


class RunFolder:
    """One run on disk. The folder is the database: the run is over when its `result.json` says so."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def files(self) -> list[str]:
        """Return the names of the run's files that are there."""
        names = (CONFIG, ENVIRONMENT, METRICS, RESULT, CHECKPOINT)
        return [name for name in names if (self / name).exists()]

    def holds_run_files(self) -> bool:
        """Return whether there are files here that only a run with a `config.yaml` should have left."""
        return any(name != CONFIG for name in self.files())

    def clear(self) -> None:
        """Delete the files of a run, and nothing else that may lie there."""
        for name in (RESULT, CHECKPOINT, METRICS, ENVIRONMENT, CONFIG):
            (self / name).unlink(missing_ok=True)
            temporary(self / name).unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        write_atomically(self / CONFIG, to_yaml(config).encode())

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write what the run runs on."""
        write_atomically(self / ENVIRONMENT, to_json(environment).encode())

    def read_environment(self) -> dict[str, Any]:
        """Return what the run ran on, or nothing where that cannot be read."""
        with suppress(OSError, ValueError, TypeError):
            return dict(json.loads((self / ENVIRONMENT).read_text(encoding="utf-8")))
        return {}

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the row of each finished epoch; a figure that was not measured is an empty cell."""
        write_atomically(self / METRICS, to_csv(rows, METRICS_COLUMNS).encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write how the run ended; with `status` done or diverged it is over."""
        write_atomically(self / RESULT, to_json({field: result[field] for field in RESULT_FIELDS}).encode())

    def read_config(self) -> dict[str, Any] | None:
        """Return the tree in `config.yaml`, or None where there is none.

        Raises:
            FolderError: The file is not one that a run wrote.
        """
        return read_tree(self / CONFIG)

    def read_result(self) -> dict[str, Any] | None:
        """Return `result.json`, or None where there is none.

        Raises:
            FolderError: The file is not one that a run wrote.
        """
        try:
            result = json.loads((self / RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FolderError(f"{self / RESULT} cannot be read; use --fresh to start over") from error
        if not isinstance(result, dict) or not set(RESULT_FIELDS) <= set(result):
            raise FolderError(f"{self / RESULT} is not a run's; use --fresh to start over, or another --out")
        return result


def to_json(value: Mapping[str, Any]) -> str:
    """Return strict JSON, one field a line; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV, with these columns in this order."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def label(value: Any) -> str:
    """Return a value of the configuration as flags and files write it: `0.15`, `true`, `null`, `stage1+stage2`."""
    if isinstance(value, (list, tuple)):
        return "+".join(map(label, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"  # steps of 0.05 give 0.15000000000000002
    return "null" if value is None else str(value)
