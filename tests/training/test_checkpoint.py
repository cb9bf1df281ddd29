"""A checkpoint is loaded only if it is whole, tdbench's own, and of this run."""

import json
import random

import numpy
import pytest
import torch

from tdbench import load_config, read_run, train
from tdbench.errors import FolderError, Interrupted
from tdbench.store.progress import Observer
from tdbench.training.checkpoint import load_checkpoint, save_checkpoint, seal_of


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "digest", {"weight": torch.arange(100.0), "rows": [{"epoch": 1}]})
    return path


def test_what_was_saved_is_loaded(path):
    state = load_checkpoint(path, "digest")
    assert torch.equal(state["weight"], torch.arange(100.0))
    assert state["rows"] == [{"epoch": 1}]


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "checkpoint.pt", "digest") is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_checkpoint_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FolderError, match=r"checkpoint\.pt is cut short or damaged"):
        load_checkpoint(path, "digest")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"format": print}, tmp_path / "checkpoint.pt")
    with pytest.raises(FolderError, match="damaged"):
        load_checkpoint(tmp_path / "checkpoint.pt", "digest")


@pytest.mark.parametrize("content", [{"state_dict": 1}, [1, 2], torch.zeros(3)])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(FolderError, match="no checkpoint of this version"):
        load_checkpoint(tmp_path / "checkpoint.pt", "digest")


def test_the_checkpoint_of_another_run_is_refused(path):
    with pytest.raises(FolderError, match="belongs to another run"):
        load_checkpoint(path, "other")


def test_a_flipped_bit_is_refused_or_changes_nothing(path):
    content, draw, num_refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        bit = draw.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            state = load_checkpoint(path, "digest")
        except FolderError:
            num_refused += 1
        else:
            assert torch.equal(state["weight"], torch.arange(100.0))
            assert state["rows"] == [{"epoch": 1}]
    assert num_refused > 50


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(1, 2)}),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int32)}),
        ({"a": torch.zeros(2)}, {"a": -torch.zeros(2)}),
        ({"a": [1, [2]]}, {"a": [[1], 2]}),
        ({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "c": 2}}),
        ({"a": "1"}, {"a": 1}),
        ({"a": torch.tensor(True)}, {"a": torch.tensor(False)}),
    ],
)
def test_states_that_differ_have_seals_that_differ(one, other):
    assert seal_of(one) != seal_of(other)
    assert seal_of(one) == seal_of(dict(one))


def test_a_seal_does_not_depend_on_the_layout_of_a_tensor_and_takes_every_type():
    x = torch.randn(2, 3, 4, 5)
    assert seal_of({"x": x}) == seal_of({"x": x.to(memory_format=torch.channels_last)})
    for dtype in (torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int64, torch.float64):
        assert seal_of(torch.ones(3, dtype=dtype)) != seal_of(torch.zeros(3, dtype=dtype))
    assert seal_of(torch.empty(0))
    indices, values = torch.tensor([[0, 2]]), torch.tensor([1.0, 2.0])
    sparse = [torch.sparse_coo_tensor(indices, values * factor, (3,)) for factor in (1, 2)]
    assert seal_of(sparse[0]) != seal_of(sparse[1])
    assert seal_of(torch.ones(2, dtype=torch.complex64).conj())
    assert seal_of(torch.nn.LazyLinear(3).state_dict())
    assert seal_of({"a", "b", "c"}) == seal_of({"c", "b", "a"})


def test_an_unsealed_checkpoint_of_release_0_2_0_is_loaded(path):
    torch.save({"format": "tdbench checkpoint 2", "digest": "digest", "state": {"step": 3}}, path)
    assert load_checkpoint(path, "digest") == {"step": 3}


def without(key):
    return lambda state: state.pop(key)


UNSUITABLE = {
    "no weights": without("model"),
    "no rows": without("rows"),
    "no hardware": without("hardware"),
    "other weights": lambda state: state.update(model={"weight": torch.zeros(3)}),
    "a text for a step": lambda state: state.update(step="3"),
    "a step before its epoch": lambda state: state.update(step=-1),
    "a step past the end": lambda state: state.update(step=10**6),
    "rows twice": lambda state: state.update(rows=state["rows"] * 2),
    "a row of other columns": lambda state: state["rows"][0].update(mystery=1),
    "losses of another length": lambda state: state["processes"][0].update(losses=torch.zeros(10**4)),
    "no optimizer": lambda state: state.update(optimizer={}),
    "no random state": lambda state: state["processes"][0].update(random=torch.zeros(3)),
    "no processes": lambda state: state.update(processes=3),
}


@pytest.mark.parametrize("spoil", UNSUITABLE.values(), ids=UNSUITABLE)
def test_a_state_that_the_run_cannot_have_been_in_is_refused_in_a_line(tmp_path, spoil):
    config = load_config({"train_fraction": 0.1, "batch_size": 32, "epochs": 3, "threads": 1})
    asked = iter(range(100))
    with torch.random.fork_rng(), pytest.raises(Interrupted):
        train(config, tmp_path, should_stop=lambda: next(asked) >= 6)
    state = load_checkpoint(tmp_path / "checkpoint.pt", config.digest())
    spoil(state)
    save_checkpoint(tmp_path / "checkpoint.pt", config.digest(), state)
    with pytest.raises(FolderError) as refused:
        train(config, tmp_path)
    assert "use --fresh" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def stopped(config, folder, num_steps):
    asked = iter(range(100))
    with torch.random.fork_rng(), pytest.raises(Interrupted):
        train(config, folder, should_stop=lambda: next(asked) >= num_steps)


class Clock(Observer):
    """A clock on which an epoch takes 12 s, and to write a checkpoint 1,000 s; which epochs were saved."""

    def __init__(self, monkeypatch):
        self.now, self.saved = 0.0, []
        monkeypatch.setattr("time.perf_counter", self.look)
        monkeypatch.setattr("tdbench.training.loop.save_checkpoint", self.save)

    def look(self):
        self.now += 1e-6
        return self.now

    def save(self, path, digest, state):
        self.saved.append(len(state["rows"]))
        self.now += 1000
        save_checkpoint(path, digest, state)

    def evaluating(self, progress):
        self.now += 12


@pytest.mark.parametrize(("every_s", "saved"), [(30, [3, 6, 8]), (0, [*range(1, 9)]), (1e6, [8])])
def test_checkpoints_are_as_far_apart_as_asked_and_the_last_epoch_is_saved(tmp_path, monkeypatch, every_s, saved):
    keys = {"train_fraction": 0.1, "batch_size": 64, "epochs": 8, "threads": 1, "training.checkpoint_every_s": every_s}
    with torch.random.fork_rng(), monkeypatch.context() as patch:
        clock = Clock(patch)
        result = train(load_config(keys), tmp_path, observer=clock)
    assert clock.saved == saved
    assert 0 <= result.wall_s - 1000 * len(saved) < 1000  # it has the time that they took
    assert read_run(tmp_path).metrics["epoch"].tolist() == [*range(1, 9)]


class Told(Observer):
    def started(self, facts, step, num_steps):
        self.facts = facts


def test_a_run_goes_on_with_the_threads_that_it_was_begun_with_and_says_so(tmp_path):
    before, told = torch.get_num_threads(), Told()
    try:
        keys = {"train_fraction": 0.1, "batch_size": 32, "epochs": 2}
        stopped(load_config({**keys, "threads": 1}), tmp_path, 3)
        train(load_config({**keys, "threads": 2}), tmp_path, observer=told)
        assert torch.get_num_threads() == 1
        assert told.facts["threads"] == "1, with which the run was begun, and not 2"
        assert load_config(tmp_path / "config.yaml").hardware.threads == 1
        assert json.loads((tmp_path / "environment.json").read_text())["threads"] == 1
    finally:
        torch.set_num_threads(before)


METHOD = """
import random
import numpy, torch
from torch import nn

class Mine(nn.Module):
    def forward(self, x):
        return x * (random.random() + numpy.random.rand()) if self.training else x
"""


def test_a_method_that_draws_from_python_and_numpy_goes_on_where_it_was(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    keys = {"train_fraction": 0.1, "batch_size": 32, "epochs": 3, "threads": 1}
    config = load_config({**keys, "regularizer": f"{tmp_path / 'mine.py'}:Mine"})
    with torch.random.fork_rng():
        train(config, tmp_path / "whole")
    stopped(config, tmp_path / "run", 6)
    random.seed(7)
    numpy.random.seed(7)  # noqa: NPY002
    train(config, tmp_path / "run")
    whole, run = (read_run(tmp_path / name).metrics["train_loss"] for name in ("whole", "run"))
    assert run.tolist() == whole.tolist()
