"""The code in docs/loops.md runs as it stands there, with the libraries that it is about."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

import tdbench

PAGE = (Path(tdbench.__file__).parents[1] / "docs" / "loops.md").read_text(encoding="utf-8")
HAND, LIGHTNING, TRANSFORMERS, TIMM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def space(tmp_path, monkeypatch, capsys):
    """Return the names that the first example leaves, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    exec(HAND, names)
    return names


def test_a_loop_by_hand(space, capsys):
    assert space["handle"].num_steps == 16
    assert space["handle"].layers["1"].strength == 1
    assert space["handle"].dropped_pct() is None  # the loop has just asked


def test_lightning(space, monkeypatch):
    pytest.importorskip("lightning", reason="lightning is not installed")
    quiet = "lightning.Trainer(logger=False, enable_progress_bar=False, accelerator='cpu', "
    exec(LIGHTNING.replace("lightning.Trainer(", quiet), space)
    assert 0 < float(space["trainer"].callback_metrics["dropped_pct"]) < 100


def test_transformers(space):
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    exec(TRANSFORMERS, space)
    shares = [row["dropped_pct"] for row in space["trainer"].state.log_history if "loss" in row]
    assert len(shares) == 2
    assert all(0 < share < 100 for share in shares)


def test_timm(monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    scheduler = pytest.importorskip("timm.scheduler")

    def train_one_epoch(model):
        model.train()(torch.rand(4, 3, 64, 64))
        return {"loss": 1.0}

    theirs = types.SimpleNamespace(
        create_model=timm.create_model,
        create_scheduler_v2=scheduler.create_scheduler_v2,
        train_one_epoch=train_one_epoch,
    )
    monkeypatch.setitem(sys.modules, "train", theirs)
    space = {"__name__": "example"}
    exec(TIMM, space)
    model = theirs.create_model("resnet10t", num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule, num_epochs = theirs.create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=2, warmup_epochs=0, updates_per_epoch=5, step_on_epochs=False
    )
    assert space["handle"].num_steps == 5 * num_epochs
    assert theirs.train_one_epoch(model) == {"loss": 1.0, "dropped_pct": 0}
    schedule.step_update(num_updates=5, metric=None)
    assert {layer.strength for layer in space["handle"].layers.values()} == {5 / (5 * num_epochs)}
    assert optimizer.param_groups[0]["lr"] < 0.1
    assert 0 < theirs.train_one_epoch(model)["dropped_pct"] < 10
