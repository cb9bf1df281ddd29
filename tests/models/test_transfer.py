"""Weights from a file: all of them or none but the head, whatever training loop wrote them, and nothing is run."""

import sys

import pytest
import torch
from torch import nn

from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.models.transfer import head_of, load_file, state_in, transfer, unwrapped


def network(num_classes=10, in_channels=3, seed=0):
    torch.manual_seed(seed)
    return build("resnet8", num_classes, in_channels)


def same(actual, expected, but=()):
    assert actual.keys() == expected.keys()
    return all(torch.equal(actual[key], expected[key]) for key in actual if key not in but)


WRAPPED = {
    "alone": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "distributed": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    "Lightning": lambda state: {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "loops": {},
        "hyper_parameters": {},
    },
    "in two wrappers": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "under a name of one's own": lambda state: {"net": state, "optimizer": {"lr": 0.1}, "epoch": 3},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "tdbench": lambda state: {"digest": "0", "state": {"step": 3, "model": state}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_weights_are_found_however_they_were_saved(tmp_path, wrap):
    saved, ours = network(seed=1), network(seed=2)
    torch.save(wrap(saved.state_dict()), tmp_path / "w.pt")
    begun = load_file(ours, tmp_path / "w.pt", 10)
    assert same(ours.state_dict(), saved.state_dict())
    assert str(begun) == f"w.pt, {len(saved.state_dict())} of {len(saved.state_dict())} keys"


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    saved, ours = network(seed=1), network(seed=2)
    safetensors.save_file(saved.state_dict(), tmp_path / "w.safetensors")
    load_file(ours, tmp_path / "w.safetensors", 10)
    assert same(ours.state_dict(), saved.state_dict())


def test_without_safetensors_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConfigError, match=r"w.safetensors needs safetensors, .* pip install safetensors"):
        state_in(tmp_path / "w.safetensors")


def test_a_head_for_other_classes_is_drawn_anew_and_told():
    saved, ours = network(num_classes=100, seed=1), network(seed=2)
    head = {f"{head_of(ours, 10)}.{name}" for name in ("weight", "bias")}
    before = {key: ours.state_dict()[key].clone() for key in head}
    begun = transfer(ours, saved.state_dict(), "w.pt", 10)
    assert set(begun.drawn) == head
    assert all(torch.equal(ours.state_dict()[key], before[key]) for key in head)
    kept = {key: value for key, value in ours.state_dict().items() if key not in head}
    assert all(torch.equal(kept[key], saved.state_dict()[key]) for key in kept)
    assert f"{begun.num_keys - 2} of {begun.num_keys} keys; drawn anew: " in str(begun)


def test_a_head_that_is_missing_is_drawn_anew():
    saved, ours = network(seed=1).state_dict(), network(seed=2)
    head = head_of(ours, 10)
    del saved[f"{head}.weight"]
    assert set(transfer(ours, saved, "w.pt", 10).drawn) == {f"{head}.weight", f"{head}.bias"}


def test_colours_are_added_up_for_grey_images():
    saved, ours = network(seed=1), network(in_channels=1, seed=2)
    transfer(ours, saved.state_dict(), "w.pt", 10)
    grey = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(ours.eval()(grey), saved.eval()(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: build("resnet14", 10), r"\d+ of \d+ keys differ, of which .* there and missing here, .* and \d+ more"),
        (lambda: build("wrn_16_4", 10), r"\d+ of \d+ keys differ, of which .* is missing there and .* here"),
        (lambda: build("resnet8", 10, 5), r"1 of \d+ keys differ, of which .* is 16×5×3×3 there and 16×3×3×3 here"),
    ],
    ids=["deeper", "another", "channels"],
)
def test_another_network_s_weights_are_refused_and_nothing_is_loaded(other, words):
    ours = network()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ConfigError, match=rf"the weights \(w.pt\) are those of another network: {words}"):
        transfer(ours, other().state_dict(), "w.pt", 10)
    assert same(ours.state_dict(), before)


def test_a_wider_network_s_head_is_no_head_for_other_classes():
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(width, 10)) for width in (8, 9))
    with pytest.raises(ConfigError, match=r"1 of 4 keys differ, of which 2.weight is 10×9 there and 10×8 here"):
        transfer(ours, theirs.state_dict(), "w.pt", 10)


class Runs:
    """A pickle that would do something."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it was run')",))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x04."])
def test_what_is_no_file_of_weights_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"model.weights .*{name} must be a file of (torch.save|safetensors)"):
        state_in(tmp_path / name)


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"a": Runs()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"must be a file of torch.save, with tensors alone, .*\(UnpicklingError\)"):
        state_in(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"a": 3}, torch.ones(1), {"model": {"a": "b"}}])
def test_what_is_no_state_of_a_network_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w.pt must hold the state of a network, keys with a tensor each"):
        state_in(tmp_path / "w.pt")


def test_what_a_file_holds_instead_is_named(tmp_path):
    torch.save({"one": {"a": torch.ones(1)}, "other": {"a": torch.ones(1)}}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"keys with a tensor each, got the keys one, other"):
        state_in(tmp_path / "w.pt")


def test_the_keys_of_another_network_stay_as_they_are():
    state = {"features.0.weight": torch.ones(1), "features.0.bias": torch.ones(1)}
    assert unwrapped(state, network()) == state
    assert unwrapped(state, nn.Sequential(nn.Linear(1, 1))).keys() == {"0.weight", "0.bias"}


def test_a_folder_or_a_missing_file_is_one_message(tmp_path):
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(ConfigError, match=r"model.weights .* cannot be read: (Is a directory|No such file)"):
            state_in(path)
