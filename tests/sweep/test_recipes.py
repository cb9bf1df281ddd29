"""Optimizers and augmentation in a sweep, and the commands of docs/recipes.md as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

import tdbench
from tdbench.cli import main
from tdbench.store.rows import TrialState
from tdbench.sweep.asked import plan_sweep

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
TINY = ["--train-fraction", "0.1", "--batch-size", "32", "--max-steps", "2"]


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(block.replace("\\\n", " "))[1:] for block in blocks]


def test_the_page_has_three_recipes_and_names_every_key_of_its_sections():
    assert [command[0] for command in commands()] == ["train", "ablate", "ablate"]
    text = PAGE.read_text(encoding="utf-8")
    config = tdbench.load_config()
    for section in ("optimizer", "schedule", "augment"):
        for key in type(getattr(config, section)).model_fields:
            assert f"`{section}.{key}`" in text


def test_a_grid_of_mixing_and_methods_has_a_baseline_for_each_share():
    plan = plan_sweep(None, {"augment.mixup": [0, 0.2]}, (), 2, None, {"regularizer": "dropblock"})
    of = {point.values["augment.mixup"]: point for point in plan.points if point.baseline is not None}
    assert of.keys() == {0, 0.2}
    for share, point in of.items():
        trial, baseline = (plan.trials[one.trials[0]] for one in (point, point.baseline))
        assert (trial.regularizer.name, baseline.regularizer.name) == ("dropblock", "none")
        assert trial.augment.mixup == baseline.augment.mixup == share


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(), ids=lambda command: command[0])
def test_the_commands_of_the_page_work(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = [*TINY, "--threads", "1", "--out", "out", "--quiet"]
    if command[0] == "ablate":
        short += ["--seeds", "1", "--jobs", "1"]
    assert main([*command, *short]) == 0
    if command[0] == "train":
        assert tdbench.read_run("out").result.test_error_pct_ema is not None
    else:
        assert set(tdbench.read_sweep("out").trials["status"]) == {TrialState.DONE.value}
