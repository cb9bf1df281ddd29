"""Every command takes the flags of a run, gathered in one place, and they reach the configuration."""

import re

import pytest

from tdbench.cli import options
from tdbench.config import FLAGS, build_config
from tdbench.errors import ConfigError

COMMANDS = ("train", "ablate", "audit", "show", "profile")
# A value for each flag of a run that is not its default, and the key that it sets.
GIVEN = {
    "data": "cifar10",
    "data_root": "/elsewhere",
    "cache": "/kept",
    "train_fraction": 0.5,
    "model": "resnet14",
    "regularizer": "dropout",
    "sites": "stage3",
    "match": "dropped=5",
    "epochs": 3,
    "max_steps": 7,
    "batch_size": 16,
    "eval_every": 2,
    "lr": 0.3,
    "seed": 4,
    "device": "cpu",
    "precision": "fp32",
    "compile": True,
    "threads": 1,
    "deterministic": True,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_every_flag_of_a_run_in_its_help(cli, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = cli(command, "--help").out
    named = set(re.findall(r"--[a-z-]+", text))
    assert {f"--{name.replace('_', '-')}" for name in FLAGS} <= named
    assert {"--set", "--out", "--quiet", "--json", "--help"} <= named


def test_every_flag_of_a_run_stands_for_a_key():
    assert set(options.RUN_FLAGS) - {"assignments", "trust"} == set(FLAGS) == set(GIVEN)
    given = options.overrides(GIVEN | {"assignments": ["flip=true"]})
    config = build_config({}, given)
    for name, key in FLAGS.items():
        found = config
        for part in key.split("."):
            found = getattr(found, part)
        assert str(found) in (str(GIVEN[name]), "('stage3',)", "5.0"), name
    assert config.augment.flip is True


def test_a_setting_beats_a_flag_and_what_was_not_given_is_no_setting():
    given = options.overrides({"epochs": 3, "lr": None, "assignments": ["epochs=5", "gamma=0.3"]})
    assert given == {"epochs": 3, "training.epochs": 5, "gamma": 0.3}
    assert build_config({}, given).training.epochs == 5


@pytest.mark.parametrize("assignment", ["block_size", "=3", "k=[1"])
def test_an_assignment_that_is_none_is_refused(assignment):
    with pytest.raises(ConfigError, match="--set"):
        options.overrides({"assignments": [assignment]})


def test_the_threads_of_an_audit_can_be_chosen(cli, monkeypatch):
    chosen = []
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    assert cli("audit", "--threads", "3", "--batch-size", "16", "--quiet").code == 0
    assert 3 in chosen


@pytest.mark.slow
def test_a_sweep_can_be_started_over(cli, tmp_path):
    command = ("ablate", "--param", "k=3", "--seeds", "1", *cli.tiny, "--jobs", "1", "--out", tmp_path / "sweep")
    assert cli(*command).code == 0
    before = cli.snapshot(tmp_path / "sweep" / "trials")
    assert "nothing to do" in cli(*command).out
    assert cli.snapshot(tmp_path / "sweep" / "trials") == before
    again = cli(*command, "--fresh")
    assert again.code == 0
    after = cli.snapshot(tmp_path / "sweep" / "trials")
    assert before.keys() == after.keys()
    results = [name for name in before if name.endswith("result.json")]
    assert len(results) == 2
    assert all(before[name][0] != after[name][0] for name in results)
