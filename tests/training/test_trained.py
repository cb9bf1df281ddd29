"""A trained run gives its weights to the network that was trained, and to no other."""

import pytest
import torch

from tdbench import insert, load_config
from tdbench.errors import ConfigError, FolderError
from tdbench.models.build import build
from tdbench.training.train import train
from tdbench.training.trained import TrainedRun, open_run

TINY = {"train_fraction": 0.1, "max_steps": 2, "batch_size": 16, "attention": "se_ste", "sites": "stage1,stage2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(load_config(overrides=TINY), folder)
    return folder


@pytest.fixture
def run(folder):
    return open_run(folder)


def network(num_classes=10):
    return build("resnet8", num_classes, in_channels=1)


def test_the_network_gets_the_weights_of_the_checkpoint(run):
    model = network()
    run.load_weights(model)
    state = torch.load(run.path / "checkpoint.pt", weights_only=True)["state"]["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_network_of_other_shapes_is_refused(run):
    with pytest.raises(ConfigError, match=r"do not fit.*classifier"):
        run.load_weights(network(num_classes=7))


def test_a_trained_attention_goes_with_the_weights(run):
    insertion = insert(network(), "targetdrop", ["stage1", "stage2"], attention="se_ste", block_size=3)
    assert run.load_regularizer(insertion, "targetdrop")
    for site, layer in insertion.layers.items():
        assert torch.equal(layer.fc1, run.state["regularizer"][site]["fc1"])


@pytest.mark.parametrize(
    ("method", "sites", "knobs"),
    [
        ("targetdrop", ["stage3"], {}),
        ("targetdrop", ["stage1"], {"attention": "gap"}),
        ("targetdrop", ["stage3"], {"attention": "gap"}),
        ("dropout", ["stage1"], {}),
    ],
)
def test_layers_that_the_run_did_not_train_keep_their_own_state(run, method, sites, knobs):
    insertion = insert(network(), method, sites, **knobs)
    before = insertion.state_dict()
    assert not run.load_regularizer(insertion, method)
    assert str(insertion.state_dict()) == str(before)


def test_it_says_how_far_it_is(run):
    error = run.state["rows"][0]["test_error_pct"]
    assert run.describe() == f"{run.path}, epoch 1, step 2, test error {error:.2f} %"
    early = TrainedRun(run.path, run.config, {"rows": [], "step": 1})
    assert early.describe() == f"{run.path}, epoch 0, step 1"


def test_another_network_or_data_set_is_told_apart(run):
    run.check_fits(load_config(overrides={"seed": 5, "regularizer": "dropout"}))
    with pytest.raises(ConfigError, match=r"model\.name must be 'resnet8'"):
        run.check_fits(load_config(overrides={"model": "resnet14"}))


@pytest.mark.parametrize("missing", ["config.yaml", "checkpoint.pt"])
def test_a_folder_that_lacks_a_file_is_refused(folder, tmp_path, missing):
    for name in {"config.yaml", "checkpoint.pt"} - {missing}:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FolderError, match=f"lacks {missing};"):
        open_run(tmp_path)
