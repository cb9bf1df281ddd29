"""The door to the lab: a sweep's driver never knows torch, whatever the sweep, and hears what went wrong there."""

import json
import os
import subprocess
import sys
import time

import pytest

from tdbench import load_config
from tdbench.config.tree import default_values
from tdbench.errors import ConfigError, TdbenchError
from tdbench.regularizers import registry
from tdbench.regularizers.config import RegularizerConfig, declaration_of, declared
from tdbench.regularizers.registry import find_method, method_names
from tdbench.store.progress import telling
from tdbench.sweep import lab

TINY = ["--train-fraction", "0.1", "--max-steps", "2", "--batch-size", "32", "--threads", "1", "--seeds", "1"]
HEAVY = {"torch", "torchvision", "sklearn", "scipy.stats"}

MINE = """
import torch
from torch import nn
import tdbench

class Mine(nn.Module):
    def __init__(self, p: float = 0.5, how: str = "hard", strange: nn.Module | None = None):
        super().__init__()
        self.p = p
    def forward(self, x):
        return x * (torch.rand_like(x) > self.p) if self.training else x

class Config(tdbench.RegularizerConfig):
    strength_knob = "share"
    share: float = tdbench.knob(0.25, "how much", ge=0, le=1, aliases=("s",), sweep=(0.1, 0.2))
    def build(self, channels, depth=1.0):
        return Mine(self.share)

def network(num_classes):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *head)
"""


def drive(*arguments, cwd, code=0, heavy=HEAVY):
    """Call the command line in a fresh interpreter; return its output and the heavy modules that it loads."""
    script = (
        "import sys; from tdbench.cli import main\n"
        f"code = main({list(map(str, arguments))!r})\n"
        f"print('loaded', *sorted({heavy!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )
    assert done.returncode == code, done.stderr
    told, loaded = done.stderr.rsplit("loaded", 1)
    return done.stdout, told, loaded.split()


@pytest.mark.slow
def test_the_driver_of_a_sweep_never_imports_torch(tmp_path):
    command = ("ablate", "--param", "k=3", *TINY, "--jobs", "1", "--out", "sweep")
    for more in (("--dry-run",), (), (), ("--dry-run",), ("--json",), ("--param", "gamma")):
        _, _, loaded = drive(*command, *more, cwd=tmp_path, code=2 if "gamma" in more else 0)
        assert loaded == [], more


@pytest.mark.slow
def test_a_finished_sweep_is_told_without_statistics_and_from_nothing_but_its_trials(tmp_path):
    command = ("ablate", "--param", "k=3,5", "--seeds", "3", *TINY, "--out", "sweep")
    told, _, _ = drive(*command, "--json", cwd=tmp_path)
    again, _, loaded = drive(*command, "--json", cwd=tmp_path, heavy={*HEAVY, "numpy", "scipy"})
    assert (again, loaded) == (told, [])

    folder = tmp_path / "sweep"
    kept, table = folder / ".summary.json", (folder / "summary.csv").read_bytes()
    kept.write_text(kept.read_text().replace('"n": 3', '"n": 4'))
    (folder / "summary.csv").write_bytes(table[:-9])
    assert drive(*command, "--json", cwd=tmp_path)[0] == told
    assert (folder / "summary.csv").read_bytes() == table

    kept.unlink()
    kept.mkdir()  # what cannot be kept costs no table
    (folder / "summary.csv").unlink()
    assert drive(*command, "--json", cwd=tmp_path)[0] == told
    assert (folder / "summary.csv").read_bytes() == table
    kept.rmdir()

    result = next((folder / "trials").glob("*/result.json"))  # what it came to changes with a trial
    tree = json.loads(result.read_text())
    result.write_text(json.dumps(tree | {"test_error_pct": tree["test_error_pct"] / 2}))
    assert drive(*command, "--json", cwd=tmp_path)[0] != told


@pytest.mark.slow
def test_a_sweep_over_the_user_s_own_method_and_network_does_not_either(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    out, _, loaded = drive(
        *("ablate", "--param", "regularizer=mine.py:Mine,mine.py:Config,dropout", "--set", "p=0.3", *TINY),
        *("--model", "mine.py:network", "--sites", "1", "--jobs", "1", "--out", "sweep", "--quiet"),
        cwd=tmp_path,
    )
    assert loaded == []
    assert out.startswith("4 trials done: 3 × too few seeds")
    _, told, loaded = drive(
        "ablate", "--param", "s", "--regularizer", "mine.py:Config", "--dry-run", *TINY, cwd=tmp_path
    )
    assert (told, loaded) == ("", [])
    for wrong, message in ((("--set", "q=3"), "unknown key 'q'"), (("--set", "p=much"), "p must be a number")):
        _, told, loaded = drive(
            "ablate", "--param", "p=0.1", "--regularizer", "mine.py:Mine", *TINY, *wrong, cwd=tmp_path, code=2
        )
        assert message in told
        assert loaded == []
    _, told, _ = drive("ablate", "--param", "p=0.1", "--regularizer", "mine.py:Nobody", *TINY, cwd=tmp_path, code=2)
    assert "unknown name 'Nobody'" in told


def test_a_run_that_is_finished_says_so_without_torch(tmp_path):
    command = ("train", *TINY[:-2], "--out", "run")
    out, _, loaded = drive(*command, cwd=tmp_path)
    assert out.startswith("loading torch, the data and the network ...\n")
    assert "torch" in loaded
    assert set(loaded) == {"torch"}  # neither torchvision nor scikit-learn nor scipy.stats has a part in it
    for more in ((), ("--json",), ("--quiet",)):
        out, _, loaded = drive(*command, *more, cwd=tmp_path)
        assert loaded == []
        assert "loading" not in out


@pytest.mark.slow
@pytest.mark.parametrize("command", ["audit", "show", "profile"])
def test_a_command_shows_life_before_it_loads_torch(command, tmp_path):
    out, _, _ = drive(command, "--device", "cuda", "--threads", "1", cwd=tmp_path, code=2)
    assert out == "loading torch, the data and the network ...\n"
    out, _, _ = drive(command, "--device", "cuda", "--quiet", cwd=tmp_path, code=2)
    assert out == ""


def test_a_folder_that_holds_no_run_is_refused_before_torch_is_loaded(tmp_path):
    out, told, loaded = drive("show", "--run", "nowhere", cwd=tmp_path, code=2)
    assert (out, loaded) == ("", [])
    assert "nowhere must be a run folder" in told


@pytest.mark.parametrize("method", method_names())
def test_a_declaration_that_travelled_makes_the_same_digests(method):
    made = declared(declaration_of(find_method(method)), RegularizerConfig)
    assert default_values(made) == default_values(find_method(method))
    assert made.strength_knob == find_method(method).strength_knob
    assert made.placement == find_method(method).placement


def test_a_user_s_method_has_one_digest_in_the_driver_and_in_the_lab(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    given = [{"regularizer": f"{tmp_path}/mine.py:{name}"} for name in ("Mine", "Config")]
    given.append(given[0] | {"p": 1})  # a whole number where a broken one is declared
    monkeypatch.chdir(tmp_path)
    given.append({"regularizer": "mine.py:Mine"})
    there = [load_config(overrides=one).digest() for one in given]
    assert there[3] == there[0]
    monkeypatch.setattr(registry, "_declared", {})
    lab.declare_user_methods(one["regularizer"] for one in given)
    assert len(registry._declared) == 2
    assert [one.digest() for one in lab.understood([load_config(overrides=one) for one in given])] == there
    assert not hasattr(find_method(given[0]["regularizer"]), "entry"), "the driver has the user's class"


class Hidden(Exception):
    """An exception of a module that the driver cannot import."""

    __module__ = "tdbench_user_code"


def fail(kind, *arguments):
    kinds = {"ours": TdbenchError, "config": ConfigError, "theirs": ValueError, "hidden": Hidden}
    raise kinds[kind](*arguments)


def test_what_the_lab_raises_comes_back_as_it_was():
    assert lab.ask("operator:add", 1, 2) == 3
    with pytest.raises(ConfigError, match=r"^no such site$"):
        lab.ask("tests.sweep.test_lab:fail", "config", "no such site")
    with pytest.raises(ValueError, match=r"^odd$"):
        lab.ask("tests.sweep.test_lab:fail", "theirs", "odd")
    with pytest.raises(TdbenchError, match="was killed; is the memory full"):
        lab.ask("os:_exit", 9)
    with pytest.raises(TdbenchError, match=r"^Hidden: what is in it$"):
        lab.ask("tests.sweep.test_lab:fail", "hidden", "what is in it")
    with pytest.raises(TdbenchError, match=r"^SystemExit: 3$"):
        lab.ask("sys:exit", 3)


def test_what_the_lab_makes_ready_is_heard_here():
    heard = []
    with telling(lambda share, what: heard.append((share, what))):
        assert lab.ask("tdbench.store.progress:tell", 0.5, "decoding") is None
    assert heard == [(0.5, "decoding")]


def test_an_interruption_does_not_wait_for_the_lab(monkeypatch):
    class Line:
        def recv(self):
            raise KeyboardInterrupt

        def close(self):
            pass

    begin = lab.start_process

    def interrupted(*arguments):
        started.append(begin(*arguments)[0])
        return started[0], Line()

    started = []
    monkeypatch.setattr(lab, "start_process", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        lab.ask("time:sleep", 60)
    assert time.monotonic() - begun < 30
    assert not started[0].is_alive()


STRICT = """
from enum import Enum, StrEnum
from pathlib import Path
from pydantic import field_validator
from torch import nn
import tdbench

class Layer(nn.Module):
    def __init__(self, size):
        super().__init__()
    def forward(self, x):
        return x

class How(Enum):
    HARD = "hard"
    SOFT = "soft"

class Tone(StrEnum):
    LOW = "low"

class Even(tdbench.RegularizerConfig):
    layer_class = Layer
    size: int = tdbench.knob(2, "made even", ge=1)
    table: dict[str, tuple[int, int]] = tdbench.knob({"a": (1, 3)}, "a knob that is a table")
    how: How = tdbench.knob(How.HARD, "an enumeration")
    tone: Tone = tdbench.knob(Tone.LOW, "one of text")
    tones: tuple[Tone, ...] = tdbench.knob((Tone.LOW,), "several")
    chosen: set[int] = tdbench.knob({3, 1}, "a set")
    place: Path = tdbench.knob(Path("x"), "a path")

    @field_validator("size", mode="before")
    @classmethod
    def _named(cls, value):
        return 6 if value == "small" else value

    @field_validator("size")
    @classmethod
    def _even(cls, value):
        if value > 8:
            raise ValueError("size must not be above 8")
        return value + value % 2

    def strength_at(self, progress):
        return 0.25

    def build(self, channels, depth=1.0):
        from tdbench.regularizers.user import as_layer
        return as_layer(Layer(self.size))
"""


@pytest.fixture
def strict(tmp_path):
    (tmp_path / "strict.py").write_text(STRICT)
    return ("ablate", "--regularizer", "strict.py:Even", *TINY, "--jobs", "1", "--quiet", "--out", "sweep")


@pytest.mark.slow
def test_a_sweep_reads_values_as_the_user_s_own_validators_do(strict, tmp_path):
    _, told, loaded = drive(*strict, "--param", "size=3,small", "--set", "table={a: [1, 2]}", cwd=tmp_path)
    assert (told, loaded) == ("", [])
    trials = (tmp_path / "sweep" / "trials.csv").read_text()
    assert "done" in trials
    assert "failed" not in trials


@pytest.mark.slow
def test_each_value_that_the_user_s_own_validators_refuse_is_named(strict, tmp_path):
    _, told, _ = drive(*strict, "--param", "size=3,9,10,large", cwd=tmp_path, code=2)
    assert [line.partition(": ")[0] for line in told.removeprefix("tdbench: ").splitlines()] == [
        "size 9",
        "size 10",
        "size large",
    ]
    assert told.count("size must not be above 8") == 2


@pytest.mark.slow
def test_what_stands_in_for_a_user_s_method_ends_with_the_sweep(tmp_path):
    (tmp_path / "strict.py").write_text(STRICT)
    tiny = 'dict(train_fraction=0.1, max_steps=1, batch_size=32, threads=1, regularizer="strict.py:Even")'
    sweep = 'tdbench.ablate(param={"size": [4]}, seeds=1, jobs=1, out="sweep", **tiny)'
    after = f"""
import tdbench
tiny = {tiny}
SWEEP
config = tdbench.load_config(overrides=tiny | {{"size": 3}})
assert config.regularizer.strength_at(1.0) == 0.25
assert config.regularizer.size == 4
print(config.digest())
assert tdbench.train(config, out="run-" + config.digest()).is_done
assert tdbench.audit(config).findings
"""
    told = []
    for code in (after.replace("SWEEP", sweep), after.replace("SWEEP", "")):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1]


@pytest.mark.slow
def test_the_reason_of_the_user_s_own_exception_is_told(tmp_path):
    raising = MINE.replace("        return x * (", "        raise Theirs('the true reason')\n        return x * (")
    (tmp_path / "raising.py").write_text("class Theirs(Exception):\n    pass\n" + raising)
    command = ("ablate", "--param", "p=0.1", "--regularizer", "raising.py:Mine", *TINY, "--dry-run", "--quiet")
    _, told, loaded = drive(*command, cwd=tmp_path, code=1)
    assert "the true reason" in told
    assert loaded == []


@pytest.mark.slow
def test_a_temporary_folder_with_a_long_path_is_no_obstacle(tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "from tdbench.sweep import lab; print(lab.ask('os:getpid') > 0)"],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(long)},
        timeout=300,
    )
    assert done.stdout == "True\n", done.stderr


def test_without_a_short_place_a_long_temporary_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    monkeypatch.setattr(lab, "SHORT_PLACES", ())
    with pytest.raises(TdbenchError, match="TMPDIR is too long for sockets"):
        lab.start()
