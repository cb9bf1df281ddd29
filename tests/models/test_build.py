"""The networks are the published ones, take any image, train, and carry a regularizer at each of their sites."""

import pytest
import torch
import torch.nn.functional as F

from tdbench.config.networks import NETWORKS, find_network
from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.models.sites import find_sites, insert
from tdbench.models.tracing import feature_shapes, output_module

LIGHT = {"resnet8", "resnet20", "resnet18", "se_resnet18", "wrn_16_4", "vgg11_bn", "densenet_bc_100_12"}
ALL = [pytest.param(name, marks=[] if name in LIGHT else [pytest.mark.slow]) for name in NETWORKS]


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# In millions, for 10 classes: He et al., table 6; Zagoruyko & Komodakis, tables 4 and 5; Huang et al., table 2; Xie et
# al., table 7. ResNet-18/34 with the small-image stem, and VGG with one linear layer, as counted in public code.
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
        ("wrn_16_4", 2.7),
        ("wrn_40_4", 8.9),
        ("wrn_40_1", 0.6),
        ("wrn_16_8", 11.0),
        ("wrn_28_10", 36.5),
        ("vgg11_bn", 9.2),
        ("vgg13_bn", 9.4),
        ("vgg16_bn", 14.7),
        ("vgg19_bn", 20.0),
        ("densenet_bc_100_12", 0.8),
        ("resnext29_8x64d", 34.4),
    ],
)
def test_parameter_counts_are_the_published_ones(name, millions):
    digits = len(str(millions).partition(".")[2])
    with torch.device("meta"):  # counted, not drawn
        assert round(num_parameters(build(name, num_classes=10)) / 1e6, digits) == millions


def test_squeeze_and_excitation_adds_the_weights_of_equation_5():
    added = num_parameters(build("se_resnet18", num_classes=10)) - num_parameters(build("resnet18", num_classes=10))
    assert added == 2 / 16 * sum(2 * channels**2 for channels in (64, 128, 256, 512))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("in_channels", [1, 5])
def test_any_number_of_input_channels_and_classes_works(name, in_channels):
    network = build(name, num_classes=7, in_channels=in_channels).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, in_channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", ALL)
def test_every_network_trains_two_steps_with_a_regularizer(name):
    torch.manual_seed(0)
    network = build(name, num_classes=10, in_channels=1)
    insert(network, "targetdrop", block_size=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in network.parameters() if parameter.requires_grad]
    for _ in range(2):
        loss = F.cross_entropy(network(torch.randn(2, 1, 32, 32)), torch.tensor([3, 7]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    after = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_every_site_is_a_feature_map_that_takes_a_regularizer(name):
    network = build(name, num_classes=10)
    keys = list(network.state_dict())
    hosts = {site: output_module(network.get_submodule(path)) for site, path in find_sites(network, ["*"]).items()}
    assert hosts.keys() == network.regularizer_sites.keys()
    assert all(len(shape) == 3 for shape in feature_shapes(network, hosts, (3, 32, 32)).values())
    one_per_output = {host: site for site, host in hosts.items()}.values()
    insertion = insert(network, "targetdrop", list(one_per_output), image_shape=(3, 32, 32), block_size=3)
    assert sorted(insertion.layers) == sorted(one_per_output)
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet8", [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("se_resnet18", [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]),
        ("wrn_10_2", [(32, 32, 32), (64, 16, 16), (128, 8, 8)]),
        ("vgg11_bn", [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]),
        ("densenet_bc_100_12", [(216, 32, 32), (300, 16, 16), (342, 8, 8)]),
    ],
)
def test_the_stages_put_out_the_published_shapes_after_a_relu(name, shapes):
    network = build(name, num_classes=10)
    stages = [site for site in network.regularizer_sites if "." not in site]
    insertion = insert(network, "none", stages)
    assert list(insertion.shapes.values()) == shapes
    minima = []
    for layer in insertion.layers.values():
        layer.register_forward_hook(lambda _, args, out: minima.append(out.min().item()))
    network(torch.randn(2, 3, 32, 32))
    assert len(minima) == len(stages)
    assert min(minima) >= 0


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("resnet8", ["stage2.block1", "stage2.block1.conv1", "stage2.block1.branch"]),
        ("se_resnet18", ["stage4.block2", "stage4.block2.conv1", "stage4.block2.branch"]),
        ("wrn_16_1", ["stage3.block2", "stage3.block2.conv1", "stage3.block2.branch"]),
        ("vgg16_bn", ["stage3.block3"]),
        ("densenet_bc_100_12", ["stage3.block16", "stage3.block16.conv1"]),
    ],
)
def test_sites_within_a_group_have_one_scheme(name, sites):
    found = find_sites(build(name, num_classes=10), [f"{sites[0]}*"])
    assert list(found) == sites


@pytest.mark.parametrize("pattern", ["resent18", "resnet18 ", "Resnet18"])
def test_an_unknown_network_names_the_nearest(pattern):
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        build(pattern, num_classes=10)


def test_an_unknown_network_lists_the_families_too():
    with pytest.raises(ConfigError, match="wrn_D_K, torchvision:NAME, timm:NAME"):
        find_network("keras:resnet18")
