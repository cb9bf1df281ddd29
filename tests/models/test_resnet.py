"""The networks are the published ones."""

import pytest
import torch

from tdbench.errors import ConfigError
from tdbench.models.build import NETWORKS, build


# He et al., table 6, in millions; ResNet-18/34 with the small-image stem as counted in the regularization papers' code.
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.27),
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
        ("resnet18", 11.17),
        ("resnet34", 21.28),
    ],
)
def test_parameter_counts_are_the_published_ones(name, millions):
    count = sum(parameter.numel() for parameter in build(name, num_classes=10).parameters())
    digits = len(str(millions).partition(".")[2])
    assert round(count / 1e6, digits) == millions


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("resnet110", "resnet34")])
@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_any_number_of_input_channels_works(name, in_channels):
    network = build(name, num_classes=7, in_channels=in_channels).eval()
    assert network(torch.zeros(2, in_channels, 32, 32)).shape == (2, 7)


def test_the_stages_halve_the_map():
    network = build("resnet8", num_classes=10, in_channels=1).eval()
    x, sides = network.stem(torch.zeros(1, 1, 32, 32)), []
    for stage in (network.stage1, network.stage2, network.stage3):
        x = stage(x)
        sides.append((x.shape[1], x.shape[2]))
    assert sides == [(16, 32), (32, 16), (64, 8)]


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        build("resent18", num_classes=10)
