"""The run folder and the sweep folder: their files, by name, and what is in them."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tdbench import __version__
from tdbench.errors import FolderError
from tdbench.store.files import (
    open_file,
    read_file,
    read_tree,
    to_csv,
    to_json,
    to_yaml,
    write_atomically,
    write_if_new,
)
from tdbench.store.rows import Decision, EpochRow, RunResult, SummaryRow, TrialRow, columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIG, ENVIRONMENT, METRICS, RESULT = "config.yaml", "environment.json", "metrics.csv", "result.json"
CHECKPOINT = "checkpoint.pt"
SWEEP, TRIALS, TRIALS_TABLE, SUMMARY_TABLE = "sweep.yaml", "trials", "trials.csv", "summary.csv"
SUMMARY_TEXT, PLOT_PNG, PLOT_SVG, PLOT_PDF = "summary.md", "plot.png", "plot.svg", "plot.pdf"
TUNE, CANDIDATES, IMPORTANCE, PROMISED = "tune.yaml", "candidates.csv", "importance.csv", "promised.csv"  # of a search
CONFIRM = "confirm"  # in a search's folder, a sweep's
REMEMBERED_SUMMARY = ".summary.json"
TRACE = "trace.json"  # of ten steps, where a trace is asked for
PREDICTIONS = "predictions.npz"  # the outcome of each test image
CONTENTS, CODE = "contents.json", "user_code.zip"  # what the settings meant, and a copy of the user's code
LOGGED = "logged.json"  # the id under which loggers know a run or a sweep
RUN_FILES = (CONFIG, ENVIRONMENT, METRICS, RESULT, CHECKPOINT, PREDICTIONS, CONTENTS, CODE, LOGGED)
AUDIT = "audit.csv"  # what a regularizer really does, site by site
LOG = "log.txt"  # of a trial: what its process printed


class Predictions(NamedTuple):
    """What became of each test image, in the test set's order: label, predicted class, probability of the label.

    `classes` are the names of the classes, by label; none where an earlier release wrote the file.
    """

    label: "NDArray[Any]"
    predicted: "NDArray[Any]"
    probability: "NDArray[Any]"
    classes: tuple[str, ...] = ()


class SweepFolder:
    """One sweep on disk: `trials/<digest>/` are run folders, and the tables follow from them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def trial(self, digest: str) -> "RunFolder":
        """Return the run folder of a trial."""
        return RunFolder(self.path / TRIALS / digest)

    def has_trained(self) -> bool:
        """Return whether any trial has got as far as a checkpoint, or is done without one."""
        if any((self / TRIALS).glob(f"*/{CHECKPOINT}")):
            return True
        for path in (self / TRIALS).glob(f"*/{RESULT}"):
            with suppress(FolderError):
                if (result := RunFolder(path.parent).read_result()) is not None and result.is_done:
                    return True
        return False

    def most_seeds_seen(self) -> int:
        """Return the largest n in the summary as it was last written; 0 where there is none."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            rows = csv.DictReader(read_file(self / SUMMARY_TABLE).decode().splitlines())
            return max((int(row["n"]) for row in rows), default=0)
        return 0

    def read_sweep(self) -> dict[str, Any] | None:
        """Return the tree in `sweep.yaml`, or None where there is none."""
        return read_tree(self / SWEEP)

    def write_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Write what is swept."""
        write_atomically(self / SWEEP, to_yaml(sweep).encode())

    def write_contents(self, contents: Mapping[str, Mapping[str, str]]) -> None:
        """Write what the settings that all trials share mean."""
        write_contents(self / CONTENTS, contents)

    def read_contents(self) -> dict[str, dict[str, str]] | None:
        """Return what they meant, or None where that is not known."""
        return read_contents(self / CONTENTS)

    def write_trials(self, keys: Sequence[str], rows: Iterable[TrialRow]) -> bool:
        """Write `trials.csv`; return whether the table is new."""
        every = list(rows)
        metrics = dict.fromkeys(name for row in every for name in row.result.metrics or ())
        text = to_csv((row.cells() for row in every), TrialRow.columns(keys, [*metrics]))
        return write_if_new(self / TRIALS_TABLE, text.encode())

    def write_summary(self, keys: Sequence[str], rows: Iterable[SummaryRow]) -> bool:
        """Write `summary.csv`; return whether the table is new."""
        text = to_csv((row.cells() for row in rows), SummaryRow.columns(keys))
        return write_if_new(self / SUMMARY_TABLE, text.encode())

    def read_audit(self) -> list[dict[str, str]]:
        """Return the rows of `audit.csv`; none where there are none that can be read."""
        with suppress(OSError, ValueError, csv.Error):
            rows = list(csv.DictReader(io.StringIO(read_file(self / AUDIT).decode(), newline="")))
            if all({"trial", "value", "site", "faults"} <= {*row} and None not in row.values() for row in rows):
                return rows
        return []

    def write_audit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `audit.csv`."""
        write_atomically(self / AUDIT, to_csv(rows, list(rows[0])).encode())

    def remember_summary(self, trials: Any, rows: Iterable[SummaryRow]) -> None:
        """Keep the summary with all digits, so that a finished sweep needs no statistics to print it again.

        Args:
            trials: What the rows follow from, as plain data.
            rows: The summary.
        """
        trees = [asdict(row) for row in rows]
        write_if_new(self / REMEMBERED_SUMMARY, to_json({"seal": _seal(trials, trees), "rows": trees}).encode())

    def recall_summary(self, trials: Any) -> tuple[SummaryRow, ...] | None:
        """Return the summary that was kept for exactly these trials by this release; None where there is none."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(read_file(self / REMEMBERED_SUMMARY))
            if kept["seal"] == _seal(trials, kept["rows"]):
                return tuple(SummaryRow(**tree | {"decision": Decision(tree["decision"])}) for tree in kept["rows"])
        return None


def _seal(trials: Any, rows: Any) -> str:
    return hashlib.sha256(json.dumps([__version__, trials, rows]).encode()).hexdigest()


def write_contents(path: Path, contents: Mapping[str, Mapping[str, str]]) -> None:
    """Write `contents.json`: what the settings of a run or a sweep mean; where that is nothing, there is none."""
    if not contents:
        path.unlink(missing_ok=True)
        return
    write_if_new(path, to_json({source: dict(parts) for source, parts in contents.items()}).encode())


def read_contents(path: Path) -> dict[str, dict[str, str]] | None:
    """Return what `contents.json` holds, or None where it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        tree = json.loads(read_file(path))
        return {str(source): dict(parts) for source, parts in tree.items()}
    return None


class RunFolder:
    """One run on disk. The folder is the database: the run is over when its `result.json` says so."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def files(self) -> list[str]:
        """Return the names of the run's files that are there."""
        return [name for name in RUN_FILES if (self / name).exists()]

    def holds_run_files(self) -> bool:
        """Return whether there are files here that only a run with a `config.yaml` should have left."""
        return any(name != CONFIG for name in self.files())

    def check_has_trained(self) -> None:
        """Check that this is a run whose network can be loaded.

        Raises:
            FolderError: It lacks the configuration or the checkpoint.
        """
        lacks = " and ".join(name for name in (CONFIG, CHECKPOINT) if not (self / name).is_file())
        if lacks:
            what = "must be a run folder of `tdbench train`, and lacks"
            raise FolderError(f"{self.path} {what} {lacks}; name another folder")

    def clear(self) -> None:
        """Delete the files of a run, and nothing else that may lie there."""
        for name in (RESULT, *reversed(RUN_FILES)):  # first what says that it is over, last what says that it is a run
            (self / name).unlink(missing_ok=True)

    def give_up(self) -> None:
        """Let the run be over no more, and its configuration be replaced even if it is damaged."""
        (self / RESULT).unlink(missing_ok=True)
        try:
            self.read_config()
        except FolderError:
            (self / CONFIG).unlink(missing_ok=True)

    def write_contents(self, contents: Mapping[str, Mapping[str, str]], code: Mapping[str, bytes]) -> None:
        """Write what a run's settings mean, and a copy of the user's code among it.

        Args:
            contents: Source to part to words.
            code: Name to content.
        """
        write_contents(self / CONTENTS, contents)
        if code:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in code.items():
                    archive.writestr(zipfile.ZipInfo(name), content)  # without a time, so that the same is the same
            write_if_new(self / CODE, packed.getvalue())

    def read_contents(self) -> dict[str, dict[str, str]] | None:
        """Return what the run's settings meant, or None where that is not known."""
        return read_contents(self / CONTENTS)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        write_atomically(self / CONFIG, to_yaml(config).encode())

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write what the run runs on."""
        write_atomically(self / ENVIRONMENT, to_json(environment).encode())

    def read_environment(self) -> dict[str, Any]:
        """Return what the run ran on, or nothing where that cannot be read."""
        with suppress(OSError, ValueError, TypeError):
            return dict(json.loads(read_file(self / ENVIRONMENT)))
        return {}

    def write_metrics(self, rows: Iterable[EpochRow]) -> None:
        """Write the row of each finished epoch; a figure that was not measured is an empty cell."""
        write_atomically(self / METRICS, to_csv(map(asdict, rows), columns(EpochRow)).encode())

    def write_predictions(self, predictions: Predictions) -> None:
        """Write what became of each test image: uint16 `label` and `predicted`, float16 `probability` of the label.

        Beside them `classes`, the names of the classes as text.
        """
        import numpy

        packed = io.BytesIO()
        label, predicted = (one.astype(numpy.uint16) for one in (predictions.label, predictions.predicted))
        probability = predictions.probability.astype(numpy.float16)
        classes = numpy.array(predictions.classes, dtype=numpy.str_)
        numpy.savez(packed, label=label, predicted=predicted, probability=probability, classes=classes)
        write_atomically(self / PREDICTIONS, packed.getbuffer())

    def read_predictions(self) -> Predictions | None:
        """Return what became of each test image, or None where that is not known."""
        import numpy

        with (
            suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
            open_file(self / PREDICTIONS) as file,
            numpy.load(file) as kept,
        ):
            classes = tuple(kept["classes"].tolist()) if "classes" in kept else ()
            return Predictions(kept["label"], kept["predicted"], kept["probability"], classes)
        return None

    def write_result(self, result: RunResult) -> None:
        """Write how the run ended; with `status` done or diverged it is over."""
        write_atomically(self / RESULT, to_json(result.to_tree()).encode())

    def read_config(self) -> dict[str, Any] | None:
        """Return the tree in `config.yaml`, or None where there is none.

        Raises:
            FolderError: The file is not one that a run wrote.
        """
        return read_tree(self / CONFIG)

    def read_result(self, hint: str = "use --fresh to start over, or another --out") -> RunResult | None:
        """Return `result.json`, or None where there is none; `hint` is what the user can do where it is of no use.

        Raises:
            FolderError: The file is not one that a run wrote.
        """
        try:
            tree = json.loads(read_file(self / RESULT))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FolderError(f"{self / RESULT} cannot be read; {hint}") from error
        try:
            return RunResult.from_tree(tree if isinstance(tree, dict) else {})
        except ValueError as error:
            raise FolderError(f"{self / RESULT} is not a run's: {error}; {hint}") from error
