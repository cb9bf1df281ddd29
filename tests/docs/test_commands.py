"""The commands of README.md and docs/: each is taken by tdbench, to where its work begins; what they need is there."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tdbench.cli import main
from tdbench.config import RunConfig
from tdbench.store.folders import RunFolder
from tdbench.sweep.runner import Sweep
from tdbench.sweep.sequential import NUM_PATHS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOOLS = ("pytest", "ruff", "mypy", "mkdocs", "docker", "cd")  # that are not ours to check
WORK = {  # what each command does once all that the user wrote has been checked
    "--install-completion": ("typer.completion.install",),
    "ablate": ("tdbench.cli.ablate.run_sweep", "tdbench.sweep.ablate.look_ahead"),
    "audit": ("tdbench.audit.command.audit_run",),
    "compare": ("tdbench.sweep.compare.compare",),
    "list": (),
    "profile": ("tdbench.profiling.profile.profile",),
    "report": ("tdbench.report.command.write_report",),
    "show": ("tdbench.show.gallery.collect", "tdbench.training.trained.open_run"),
    "train": ("tdbench.training.train.train",),
    "tune": ("tdbench.cli.tune.run", "tdbench.sweep.tune.outlook.look_ahead"),
}


class Begun(BaseException):
    """The work of a command has begun."""


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the page's blocks of shell."""
    for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


def files(page: Path) -> dict[str, str]:
    """Return the files that the page shows, by the names in their first lines."""
    shown = (re.match(r"# (\w+\.py)\n", block) and block for block in blocks(page, "python"))
    return {block.split()[1]: block for block in shown if block}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str | None]:
    """Return what starts a command and stops it where its work begins; it returns the complaint, or None."""

    def leave(what: object = None, where: object = None, *_: object, **__: object) -> None:
        """Leave what a later command of the page goes on from."""
        if isinstance(what, RunConfig) and isinstance(where, Path):
            where.mkdir(parents=True, exist_ok=True)
            RunFolder(where).write_config(what.dump())
        elif isinstance(what, Sweep):
            what.folder.path.mkdir(parents=True, exist_ok=True)
            what.folder.write_sweep(what.plan.tree())
        raise Begun

    def start(words: list[str]) -> str | None:
        said = io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            for work in WORK.get(words[0], ()):
                patch.setattr(work, leave)
            patch.setattr("tdbench.sweep.sequential.null_minima", lambda first, last: np.linspace(0, 1, NUM_PATHS))
            patch.setattr(RunFolder, "check_has_trained", lambda _: None)
            try:
                code = main(words)
            except Begun:
                return None
        is_over = words[0] == "list" or words[0].startswith("-")
        return None if code == 0 and is_over else f"exit code {code}: {said.getvalue()[-500:]}"

    (tmp_path / "train.py").write_text("# a script of the user's\n")
    (tmp_path / "begun.safetensors").write_bytes(bytes(8))
    (tmp_path / "net.py").write_text(files(ROOT / "docs" / "your-code.md")["net.py"])
    for name in ("train/cats", "train/dogs", "test/cats", "test/dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "photos" / name / "1.png")
    monkeypatch.chdir(tmp_path)
    return start


def wrong_with(words: list[str], start: Callable[[list[str]], str | None]) -> str | None:
    """Return why a command could not be run; None where it can, as far as that is ours."""
    if words[0] == "tdbench":
        return start(words[1:])
    if words[0] == "torchrun":
        return start(words[words.index("tdbench") + 1 :])
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        unknown = set(re.findall(r"\[(\w+)\]", " ".join(words))) - extras.keys()
        return f"no extra {unknown}" if unknown else None
    if words[0] in ("bash", "python"):
        script = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
        return None if (ROOT / script).is_file() or Path(script).is_file() else f"no file {script}"
    return None if words[0] in TOOLS else f"unknown program {words[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_taken(page, started, tmp_path):
    for name, text in files(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = {shlex.join(words): wrong_with(words, started) for words in commands(page)}
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "line",
    [
        *(
            "tdbench trian",
            "tdbench train --epoch 3",
            "tdbench train --set blok_size=3",
            "tdbench ablate ablations/no.yaml",
        ),
        *("tdbench list nothing", "python benchmarks/none.py", 'pip install -e ".[none]"', "make"),
    ],
)
def test_a_command_that_cannot_be_run_is_found(line, started):
    assert wrong_with(shlex.split(line), started)


@pytest.mark.slow
def test_the_python_of_the_pages_runs_and_so_does_a_script_of_the_user_s(tmp_path):
    """From page to page in one folder, since a later block reads what an earlier one left."""
    pages = [ROOT / "docs" / name for name in ("your-code.md", "files.md", "statistics.md")]
    for name, text in files(pages[0]).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    surroundings = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": surroundings, "capture_output": True, "text": True}
    scripts = [block for page in pages for block in blocks(page, "python") if block not in files(page).values()]
    assert len(scripts) == 5
    for script in scripts:
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
        ran = subprocess.run([sys.executable, "script.py"], **options)
        assert ran.returncode == 0, f"{script}\n{ran.stderr}"
    sweeps = [words for words in commands(pages[0]) if "--command" in words]
    assert len(sweeps) == 2
    for words in sweeps:
        ran = subprocess.run([sys.executable, "-m", *words], **options)
        assert ran.returncode == 0, ran.stderr
