"""`model.weights` and `model.pretrained` in every command, and what is wrong with them in one message."""

import json
import re

import pytest
import torch
import yaml

from tdbench import load_config
from tdbench.models.build import build

QUICK = ("--max-steps", "1", "--set", "evaluate.bn_batches=0", "--train-fraction", "0.1", "--batch-size", "8")


@pytest.fixture
def weights(tmp_path):
    """Return a file of weights of ResNet-8, for other classes."""
    torch.save(build("resnet8", 7, 1).state_dict(), tmp_path / "w.pt")
    return "model.weights=w.pt"


def test_a_run_begins_with_a_file_says_what_it_left_out_and_goes_on(cli, tmp_path, weights):
    command = ("train", *QUICK, "--set", weights, "--out", "run")
    done = cli(*command)
    assert done.code == 0
    said = json.loads((tmp_path / "run" / "environment.json").read_text())["weights"]
    assert said in done.out
    assert said.startswith("w.pt, ")
    assert "drawn anew: " in said
    assert "bytes (" in json.loads((tmp_path / "run" / "contents.json").read_text())["model.weights"]["model.weights"]
    assert cli(*command).code == 0  # it is over, and told again
    assert load_config(tmp_path / "run" / "config.yaml").model.weights == tmp_path / "w.pt"


def test_the_weights_are_part_of_the_run_and_their_place_is_not(cli, tmp_path, weights):
    def digest(path):
        return load_config(None, {"model.weights": path}).digest()

    first = digest(tmp_path / "w.pt")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes())
    assert digest(tmp_path / "elsewhere" / "w.pt") == first != load_config().digest()
    cli("train", *QUICK, "--set", weights, "--out", "run")
    torch.save(build("resnet8", 7, 1).state_dict(), tmp_path / "w.pt")
    assert digest(tmp_path / "w.pt") != first
    again = cli("train", *QUICK, "--set", weights, "--out", "run")
    assert again.code == 2
    assert "holds a run on other data or of other code: model.weights is " in again.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("audit",),
        ("show", "--out", "shown"),
        ("ablate", "--param", "block_size=3", "--seeds", "2", "--max-steps", "1", "--out", "sweep"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_takes_them(cli, weights, command):
    done = cli(*command, "--train-fraction", "0.1", "--batch-size", "8", "--set", weights)
    assert done.code == 0, done.err


def test_a_network_of_torchvision_begins_with_what_it_publishes(cli, tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), place / "squeezenet1_1-b8a52dc0.pth")
    model = ("--model", "torchvision:squeezenet1_1", "--set", "model.pretrained=true", "--set", "model.input_size=64")
    done = cli("train", *QUICK, *model, "--sites", "features.3", "--out", "run")
    assert done.code == 0, done.err
    assert "published as squeezenet1_1-b8a52dc0.pth, 50 of 52 keys; drawn anew: classifier.1.weight" in done.out
    assert "resized to 64×64, mean 0.449, deviation 0.226" in done.out
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]
    assert (kept["pretrained"], kept["input_size"], kept["input_mean"]) == (True, 64, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.weights=none.pt"], "model.weights .*none.pt does not exist"),
        (["model.weights=."], "model.weights .* cannot be read: Is a directory"),
        (["model.pretrained=true"], "model.pretrained must be false for resnet8: only torchvision:NAME and timm:NAME"),
        (["model.pretraind=true"], "unknown key 'model.pretraind'; did you mean model.pretrained"),
        (
            ["model.name=torchvision:resnet18", "model.pretrained=true", "model.weights=w.pt"],
            "model.weights must be null where model.pretrained is true",
        ),
        (["input_mean=[0.5]"], "model.input_mean and model.input_std must have as many values, got 1 and 0"),
        (["input_mean=[0.5]", "input_std=[0]"], r"model.input_std must be numbers above 0 and up to 1, .* got \[0.0\]"),
        (
            ["input_mean=123,117,104", "input_std=1,1,1"],
            "model.input_mean must be numbers between 0 and 1, to which images",
        ),
        (["model.input_size=4"], "model.input_size must be between 8 and 4096, got 4"),
    ],
)
def test_what_is_wrong_is_one_message(cli, settings, words):
    done = cli("train", *QUICK, *(part for one in settings for part in ("--set", one)), "--out", "run")
    assert done.code == 2
    assert re.search(words, done.err.replace("\n", " "))
