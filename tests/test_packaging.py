"""The wheel and the sdist hold what they should, and the wheel runs every command outside the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import tdbench
from tdbench.sweep.ready import ready_experiments

ROOT = Path(__file__).parents[1]
TINY = ["--train-fraction", "0.1", "--max-steps", "3", "--batch-size", "32", "--threads", "1"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Build the sdist, and from it the wheel, of a copy, in which nothing built before lies about."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for name in ("ablations", "docs", "tdbench", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    built = subprocess.run([sys.executable, "-m", "build", "-o", folder, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Install the wheel alone in a fresh environment, which finds here what the wheel depends on."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(home, with_pip=False)
    paths = {name: sysconfig.get_path(name, "venv", {"base": str(home)}) for name in ("purelib", "scripts")}
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(dist[1])], check=True)
    here = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (Path(paths["purelib"]) / "dependencies.pth").write_text("\n".join(sorted(here)))
    return Path(paths["purelib"]), Path(paths["scripts"])


@pytest.fixture
def run(installed, tmp_path):
    """Return what runs a program of the fresh environment in an empty folder, and returns what it prints."""

    def run(program, *arguments):
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        surroundings = {**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [installed[1] / program, *arguments]
        ran = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    return run


@pytest.mark.slow
def test_the_sdist_and_the_wheel_hold_what_they_should(dist):
    with tarfile.open(dist[0]) as sdist:
        source = {name.partition("/")[2] for name in sdist.getnames()}
    wheel = set(zipfile.ZipFile(dist[1]).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tdbench").rglob("*.py")}
    experiments = {path.name for path in (ROOT / "ablations").glob("*.yaml")}
    data = {"tdbench/py.typed", *(f"tdbench/report/page.{kind}" for kind in ("html", "css", "js"))}
    assert source >= modules | data | {f"ablations/{name}" for name in experiments}
    assert source >= {"tdbench/regularizers/targetdrop/cpu.cpp", "setup.py", "CHANGELOG.md", "docs/index.md", "LICENSE"}
    assert wheel >= modules | data | {f"tdbench/ablations/{name}" for name in experiments}
    assert not {name for name in source | wheel if name.startswith(("tests/", "ablations/results/"))}
    assert not {name for name in source if name.endswith((".so", ".pyc"))}


@pytest.mark.slow
def test_the_wheel_runs_every_command_with_the_kernel_and_without_it(installed, run, tmp_path):
    purelib = installed[0]
    found = run("python", "-c", "import tdbench; print(tdbench.__file__, tdbench.__version__)").split()
    assert found == [str(purelib / "tdbench" / "__init__.py"), tdbench.__version__]
    commands = re.findall(r"^│ (\w+) ", run("tdbench", "--help"), re.MULTILINE)
    assert {"train", "ablate", "tune", "compare", "report", "audit", "show", "profile", "list"} <= set(commands)
    listed = json.loads(run("tdbench", "list", "experiments", "--json"))["experiments"]
    assert {row["experiment"] for row in listed} == {f"ablations/{path.name}" for path in ready_experiments()}
    assert "nothing was trained" in run("tdbench", "ablate", "ablations/block_size.yaml", "--dry-run")
    run("tdbench", "train", *TINY, "--out", "run")
    sweep = ["block_size.yaml", "--param", "block_size=3", "--seeds", "2", *TINY, "--jobs", "1", "--out", "sweep"]
    run("tdbench", "ablate", *sweep)
    run("tdbench", "compare", "sweep/trials.csv", "--value", "block_size")
    run("tdbench", "report", "sweep", "run", "--out", "report.html")
    run("tdbench", "audit", *TINY, "--sites", "stage2")
    run("tdbench", "show", "--run", "run", "--sites", "stage2", "--images", "1")
    run("tdbench", "profile", "--regularizer", "targetdrop", "--shape", "4x16x8x8", "--seconds", "0.02", *TINY)
    searched = [
        "--param",
        "drop_ratio=0.1,0.3",
        "--trials",
        "2",
        "--search-seeds",
        "1",
        "--confirm",
        "0",
        "--jobs",
        "1",
    ]
    run("tdbench", "tune", *searched, *TINY, "--out", "search")
    assert (tmp_path / "search" / "candidates.csv").is_file()

    has_kernel = "from tdbench.regularizers.kernels import runs_cpp; print(runs_cpp())"
    kernels = list((purelib / "tdbench/regularizers/targetdrop").glob("_cpu.*.so"))
    assert run("python", "-c", has_kernel).strip() == str(bool(kernels))
    for kernel in kernels:
        kernel.unlink()
    assert run("python", "-c", has_kernel).strip() == "False"
    run("tdbench", "train", *TINY, "--out", "plain")
    with_it, without = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "plain"))
    assert without["dropped_pct"] == pytest.approx(with_it["dropped_pct"], rel=0.05)


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tdbench.__version__


def test_the_test_extra_has_what_the_extras_are_tested_with():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("docs", "ray", "tensorboard", "tune"):
        assert set(extras[extra]) <= set(extras["test"])


def test_the_image_is_built_from_files_that_are_there_and_runs_tdbench():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]
    ]
    assert {"pyproject.toml", "setup.py", "tdbench", "ablations"} <= set(copied)
    sent = {
        line[1:].partition("/*")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert sent == set(copied)
    assert all((ROOT / name).exists() for name in copied)
    (entry,) = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT ")]
    assert entry == ["/opt/tdbench/bin/tdbench"]
    assert any("-m venv /opt/tdbench" in line for line in lines)
