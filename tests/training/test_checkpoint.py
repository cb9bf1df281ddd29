"""A checkpoint is loaded only if it is whole, tdbench's own, and of this run."""

import random

import pytest
import torch

from tdbench import load_config, train
from tdbench.errors import FolderError, Interrupted
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
