"""Networks of torchvision and timm come by their names there, and take a regularizer like any other."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tdbench.errors import ConfigError
from tdbench.models.build import build, check_network
from tdbench.models.sites import insert


@pytest.fixture
def fake_timm(monkeypatch):
    calls = []

    def create_model(name, **arguments):
        if arguments["in_chans"] > 4:
            raise ValueError("too many channels")
        calls.append((name, arguments))
        return nn.Conv2d(arguments["in_chans"], arguments["num_classes"], 1)

    known = ["resnet18", "vit_tiny"]
    module = SimpleNamespace(is_model=known.__contains__, list_models=lambda: known, create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", module)
    return calls


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_a_torchvision_network_takes_any_number_of_channels_and_classes(in_channels):
    network = build("torchvision:mobilenet_v3_small", num_classes=7, in_channels=in_channels).eval()
    assert network(torch.zeros(2, in_channels, 32, 32)).shape == (2, 7)


def test_a_replaced_first_convolution_differs_in_its_inputs_only():
    old, new = (build("torchvision:alexnet", num_classes=2, in_channels=n).features[0] for n in (3, 1))
    assert str(new) == str(old).replace("Conv2d(3,", "Conv2d(1,")


def test_a_torchvision_network_trains_with_a_regularizer_at_its_default_sites():
    network = build("torchvision:resnet18", num_classes=10, in_channels=1)
    keys = list(network.state_dict())
    insertion = insert(network, "targetdrop", block_size=3, image_shape=(1, 32, 32))
    assert insertion.shapes == {"relu": (64, 16, 16), "layer1": (64, 8, 8)}
    assert list(network.state_dict()) == keys
    loss = network.train()(torch.randn(2, 1, 32, 32)).logsumexp(1).sum()
    loss.backward()
    assert loss.isfinite()


def test_auxiliary_outputs_are_left_out():
    network = build("torchvision:googlenet", num_classes=10).train()
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnt18", "unknown torchvision model 'resnt18'; did you mean resnet18"),
        ("torchvision:fcn_resnet50", "torchvision:fcn_resnet50 must be an image classifier"),
        ("torchvision:", "unknown torchvision model ''"),
        ("torchvison:resnet18", "did you mean torchvision:NAME"),
    ],
)
def test_what_torchvision_lacks_is_refused_before_it_is_built(name, message):
    with pytest.raises(ConfigError, match=message):
        check_network(name)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'pip install "tdbench\[timm\]"'):
        check_network("timm:resnet18")


def test_a_timm_network_is_asked_for_with_fresh_weights(fake_timm):
    build("timm:resnet18", num_classes=7, in_channels=1)
    assert fake_timm == [("resnet18", {"pretrained": False, "num_classes": 7, "in_chans": 1})]


def test_what_timm_lacks_or_cannot_build_is_a_config_error(fake_timm):
    with pytest.raises(ConfigError, match="unknown timm model 'resnt18'; did you mean resnet18"):
        check_network("timm:resnt18")
    with pytest.raises(ConfigError, match="timm:vit_tiny cannot be built with 7 classes and 5 input channels"):
        build("timm:vit_tiny", num_classes=7, in_channels=5)


def test_a_real_timm_network_takes_a_regularizer_at_its_default_sites():
    pytest.importorskip("timm")
    network = build("timm:resnet18", num_classes=7, in_channels=1)
    assert list(insert(network, "targetdrop", image_shape=(1, 64, 64)).shapes) == ["act1", "layer1"]
