"""The command line as a user meets it: in this process where that is enough, as a process where one matters."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from tdbench.cli import main
from tdbench.store.files import LOCK

TIMINGS = {"train_img_per_s", "epoch_s", "wall_s", "peak_mem_mib"}
SURROUNDINGS = ("TDBENCH_DEBUG", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


class Cli:
    """Calls `tdbench`, and reads what it leaves."""

    tiny = ("--train-fraction", "0.1", "--max-steps", "3", "--batch-size", "32")

    def __call__(self, *arguments: str | Path) -> Outcome:
        """Call it in this process."""
        out, err = io.StringIO(), io.StringIO()
        with torch_as_it_was(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Outcome(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Call it in a process of its own."""
        return self.start_python("-m", "tdbench", *map(str, arguments), **options)

    def start_python(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = {**pipes, "env": self.environment(), "text": True, "encoding": "utf-8", **options}
        return subprocess.Popen([sys.executable, *arguments], **options)

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> Outcome:
        """Wait for a process to end."""
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        return Outcome(process.returncode, out, err)

    @staticmethod
    def environment(**variables: str) -> dict[str, str]:
        """Return the surroundings of a process on a machine without a GPU, where tests may share the cores."""
        kept = {name: value for name, value in os.environ.items() if name not in SURROUNDINGS}
        return {**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **variables}

    @staticmethod
    def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
        """Wait until something holds, while the process lives."""
        end = time.monotonic() + 120
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)

    @staticmethod
    def rows(folder: Path) -> list[dict[str, str]]:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @staticmethod
    def result(folder: Path) -> dict[str, Any]:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))

    def figures(self, folder: Path) -> list[dict[str, str]]:
        """Return the cells of metrics.csv to their last digit, timings aside."""
        return [{name: cell for name, cell in row.items() if name not in TIMINGS} for row in self.rows(folder)]

    def outcome(self, folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Return all figures that a run ends with, timings aside."""
        result = self.result(folder)
        return self.figures(folder), {name: value for name, value in result.items() if name not in TIMINGS}

    @staticmethod
    def snapshot(folder: Path) -> dict[str, tuple[int, bytes | None]]:
        """Return the time of change and the content of everything in a folder; of a lock the content alone."""

        def changed_ns(path: Path) -> int:
            return 0 if path.name == LOCK else path.stat().st_mtime_ns  # filelock 3 truncates it at each try to lock

        paths = sorted(folder.rglob("*"))
        return {
            str(path.relative_to(folder)): (changed_ns(path), path.read_bytes() if path.is_file() else None)
            for path in paths
        }


@contextlib.contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Let commands set the process up as they like, from one thread, which other work on the machine slows least."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark


@pytest.fixture(scope="session")
def cli() -> Iterator[Cli]:
    """Call `tdbench` on a machine that has no GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", wraps(torch.cuda.is_available)(lambda: False))
        for name in SURROUNDINGS:
            patch.delenv(name, raising=False)
        yield Cli()


@pytest.fixture(autouse=True)
def _quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with torch_as_it_was():
        yield
