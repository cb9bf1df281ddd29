"""Digests name results: they survive a new field, and change where a default or an algorithm does.

`results_version.json` beside this test holds the defaults of every key, and what every method makes of one feature map,
as they were when RESULTS_VERSION last rose. To write it anew: `python -m tests.config.test_results_version`.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import create_model

from tdbench import load_config
from tdbench.config import tree
from tdbench.config.data_sets import DATA_SETS
from tdbench.config.tree import RESULTS_VERSION, RunConfig, TrainingConfig, default_values
from tdbench.knobs import knob
from tdbench.regularizers.registry import find_method, method_names

SNAPSHOT = Path(__file__).with_name("results_version.json")
ADVICE = "results change: raise the method's revision, or RESULTS_VERSION in tdbench/config/tree.py; snapshot anew"


def defaults() -> dict[str, dict]:
    """Return the defaults of all keys by method; those that every method has stand under `all`."""
    found = {name: default_values(find_method(name)) for name in method_names()}
    shared = {
        key: value for key, value in found["none"].items() if all(of.get(key, of) == value for of in found.values())
    }
    return {"all": shared} | {
        name: {key: value for key, value in of.items() if key not in shared} for name, of in found.items()
    }


def outcome(method: str) -> list[float]:
    """Return what a method, at its defaults and a fixed seed, makes of one map: the units dropped, and a checksum."""
    torch.manual_seed(0)
    layer = find_method(method)().build(16).train()
    x = (torch.arange(4 * 16 * 12 * 12).view(4, 16, 12, 12) * 2654435761 % 1009 / 1009).float()
    out, num_dropped = layer.drop(x)
    places = torch.arange(x.numel(), dtype=torch.float64).view_as(x) % 97
    return [int(num_dropped), round(float((out.double() * places).sum()), 1)]


def torch_keeps() -> int:
    """Return how many of 1000 units torch's own dropout keeps: other ones in 2.6 than in 2.15, from the same seed."""
    torch.manual_seed(0)
    return int(torch.native_dropout(torch.ones(1000), 0.5, True)[1].sum())


def test_a_default_that_changes_raises_the_version():
    snapshot = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert snapshot["version"] == RESULTS_VERSION, "write the snapshot anew"
    for part, known in snapshot["defaults"].items():
        now = defaults().get(part, {})
        changed = {key: (value, now.get(key, "gone")) for key, value in known.items() if now.get(key, "gone") != value}
        assert not changed, ADVICE
        added = now.keys() - known.keys()
        assert not added, f"new with a default, which leaves digests alone: write the snapshot anew ({added})"


@pytest.mark.parametrize("method", method_names())
def test_an_algorithm_that_changes_raises_the_version(method):
    snapshot = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    known = snapshot["outcomes"]
    assert method in known, "a new method, which changes no results: write the snapshot anew"
    if method == "dropout" and torch_keeps() != snapshot["torch_keeps"]:
        pytest.skip(f"the dropout of torch {torch.__version__} draws other units than that of the snapshot's torch")
    assert find_method(method).revision == snapshot["revisions"].get(method, 1), "write the snapshot anew"
    assert outcome(method) == pytest.approx(known.get(method), rel=1e-4), ADVICE


def test_a_method_that_went_raises_the_version():
    known = json.loads(SNAPSHOT.read_text(encoding="utf-8"))["outcomes"]
    assert set(known) <= set(method_names()), ADVICE


def test_a_new_field_leaves_the_digests_of_finished_runs_alone(monkeypatch):
    before = [load_config(overrides=given).digest() for given in ({}, {"epochs": 3}, {"regularizer": "dropblock"})]
    later = create_model("TrainingConfig", __base__=TrainingConfig, clip=(float, knob(0.0, "a field to come", ge=0)))
    fields = {"training": (later, later())}
    monkeypatch.setattr(tree, "RunConfig", create_model("RunConfig", __base__=RunConfig, **fields))
    default_values.cache_clear()
    try:
        runs = [
            tree.RunConfig.model_validate(given)
            for given in ({}, {"training": {"epochs": 3}}, {"regularizer": {"name": "dropblock"}})
        ]
        assert [run.digest() for run in runs] == before
        assert "training.clip" in runs[0].identity()
        assert tree.RunConfig.model_validate({"training": {"clip": 1.0}}).digest() not in before
    finally:
        default_values.cache_clear()


def test_a_digest_tells_what_differs_from_what_is_only_said():
    assert load_config(overrides={"block_size": 5, "epochs": 20}).digest() == load_config().digest()
    assert load_config(overrides={"threads": 1, "data_root": "elsewhere"}).digest() == load_config().digest()
    digests = {
        load_config(overrides=given).digest()
        for given in (
            *({}, {"block_size": 3}, {"seed": 1}, {"regularizer": "none"}, {"regularizer": "dropblock"}),
            *({"data": "folder", "data_root": "a"}, {"data": "folder", "data_root": "b"}, {"data": "folder"}),
        )
    }
    assert len(digests) == 8


def test_a_folder_is_named_by_its_place_even_where_that_is_the_default():
    assert load_config(overrides={"data": "folder"}).identity()["data.root"].endswith("data")


def test_a_layer_or_a_default_place_that_is_another_makes_other_runs(monkeypatch):
    method = find_method("spatial_dropout")
    plain, named = ({"regularizer": "spatial_dropout"} | more for more in ({}, {"sites": "stage2"}))
    before = [load_config(overrides=given).digest() for given in (plain, named)]
    with monkeypatch.context() as patch:
        patch.setattr(method, "groups", "last_two")
        assert [
            load_config(overrides=given).digest() == known for given, known in zip((plain, named), before, strict=True)
        ] == [
            False,
            True,
        ]
    monkeypatch.setattr(method, "revision", 2)
    assert not {load_config(overrides=given).digest() for given in (plain, named)} & set(before)


def test_a_reader_that_makes_other_images_makes_other_runs(monkeypatch):
    config = load_config(overrides={"data": "folder"})
    before = config.digest()
    again = replace(DATA_SETS["folder"], reading=DATA_SETS["folder"].reading + 1)
    monkeypatch.setitem(DATA_SETS, "folder", again)
    assert config.digest() != before


if __name__ == "__main__":
    content = {
        "version": RESULTS_VERSION,
        "torch_keeps": torch_keeps(),
        "defaults": defaults(),
        "revisions": {name: find_method(name).revision for name in method_names() if find_method(name).revision > 1},
        "outcomes": {name: outcome(name) for name in method_names()},
    }
    SNAPSHOT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
