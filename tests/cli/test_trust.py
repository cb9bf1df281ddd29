"""Code that a file or a folder names does not run unless the command line names it, or trusts the file."""

import sys

import pytest
import yaml

import tdbench
from tdbench.config.trust import code_names
from tdbench.errors import ConfigError
from tdbench.sweep.experiment import read_experiment

CODE = """
from pathlib import Path
Path("RAN").touch()
from torch import nn
class Drop(nn.Module):
    def __init__(self, p: float = 0.2):
        super().__init__()
    def forward(self, x):
        return x
def make_model(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with strangers' files, in a process that has not run their code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their.py").write_text(f"{CODE}# {tmp_path}")
    trees = {
        "method.yaml": {"regularizer": {"name": "their.py:Drop"}},
        "model.yaml": {"model": {"name": "their.py:make_model"}},
        "base.yaml": {"sweep": {"p": [0.1]}, "base": {"regularizer": {"name": "their.py:Drop"}}},
        "arms.yaml": {"arms": {"a": {"regularizer": "their.py:Drop"}, "b": {"regularizer": "dropout"}}},
        "swept.yaml": {"sweep": {"regularizer": ["dropout", "their.py:Drop"]}},
        "run/config.yaml": {"data": {}, "model": {}, "regularizer": {"name": "their.py:Drop"}},
        "run/checkpoint.pt": {},
        "sweep/sweep.yaml": {"sweep": {"p": [0.1]}, "base": {"regularizer": {"name": "their.py:Drop"}}},
    }
    for name, tree in trees.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(yaml.safe_dump(tree))
    return tmp_path


COMMANDS = [
    ("train", "method.yaml"),
    ("train", "model.yaml"),
    ("train", "--out", "run"),
    ("audit", "method.yaml"),
    ("audit", "model.yaml"),
    ("profile", "method.yaml"),
    ("profile", "model.yaml"),
    ("show", "method.yaml"),
    ("show", "model.yaml", "--regularizer", "dropout"),
    ("show", "--run", "run"),
    ("ablate", "method.yaml", "--param", "p=0.1", "--dry-run"),
    ("ablate", "base.yaml", "--dry-run"),
    ("ablate", "arms.yaml", "--dry-run"),
    ("ablate", "swept.yaml", "--dry-run"),
    ("ablate", "sweep/sweep.yaml", "--dry-run"),
    ("ablate", "--param", "block_size=3", "--out", "sweep", "--dry-run"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_code_that_only_a_file_names_does_not_run(cli, place, command):
    refused = cli(*command)
    assert (refused.code, refused.out) == (2, "")
    assert len(refused.err.splitlines()) == 1
    assert "their.py:" in refused.err
    if "--out" not in command:
        assert "--trust" in refused.err
    assert not (place / "RAN").exists()


@pytest.mark.slow
def test_a_file_runs_its_code_where_it_is_named_too_or_trusted(cli, place):
    named = cli("ablate", "base.yaml", "--regularizer", "their.py:Drop", *cli.tiny, "--dry-run")
    assert named.code == 0, named.err
    assert (place / "RAN").exists()
    assert cli("ablate", "swept.yaml", "--param", "regularizer=their.py:Drop", *cli.tiny, "--dry-run").code == 0
    trusted = cli("train", "method.yaml", "--trust", *cli.tiny, "--out", "mine")
    assert trusted.code == 0, trusted.err


def test_python_takes_trust_too_and_needs_none_for_what_runs_already(place):
    with pytest.raises(ConfigError, match="trust=True in Python"):
        tdbench.load_config("method.yaml")
    assert not (place / "RAN").exists()
    tdbench.load_config("method.yaml", trust=True)
    assert (place / "RAN").exists()
    tdbench.load_config("method.yaml")
    assert any(name.startswith("tdbench_user_their") for name in sys.modules)


def test_code_is_found_in_every_kind_of_value():
    tree = {"base": {"x": ["e.py:F", {"y": "k=g.py:H,i.py:J"}], "title": {"z": {"l.py:M"}}, "b": b"n.py:O"}}
    assert set(code_names(tree)) == {
        "e.py:F",
        "g.py:H",
        "i.py:J",
        "k=g.py:H,i.py:J",
        "l.py:M",
        "n.py:O",
    }  # the last may be a path


HIDDEN = {
    "an arm called title": 'arms: {title: {regularizer: "their.py:Drop"}, b: {regularizer: dropout}}',
    "a set": 'sweep: {regularizer: !!set {? "their.py:Drop", ? dropout}}',
    "bytes": "arms: {a: {model.name: !!binary dGhlaXIucHk6bWFrZV9tb2RlbA==}, b: {lr: 0.1}}",
    "pairs": 'sweep: {regularizer: !!pairs [a: "their.py:Drop"]}',
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_code_cannot_hide_in_a_file(cli, place, text):
    (place / "x.yaml").write_text(text)
    refused = cli("ablate", "x.yaml", "--dry-run")
    assert (refused.code, refused.out) == (2, "")
    assert "defect" not in refused.err
    assert not (place / "RAN").exists()


def test_a_title_for_people_names_no_code(place):
    tree = {"title": "as in their.py:Drop", "sweep": {"lr": [0.1]}}
    (place / "x.yaml").write_text(yaml.safe_dump(tree))
    assert read_experiment(place / "x.yaml").title == "as in their.py:Drop"
