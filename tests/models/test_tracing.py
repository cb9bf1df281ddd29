"""A network that declares no sites has them found: the last module at each resolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.models.sites import find_sites, insert, traced_sites


def conv(in_channels, channels, stride=1):
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1)


class Net(nn.Module):
    """Modules by name, called one after another in the order given, each as often as its name occurs in it."""

    def __init__(self, order, **modules):
        super().__init__()
        self.order = order.split()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


class HalvingBlock(nn.Module):
    """As in a ResNet-50: the first convolution keeps the resolution, the second halves it."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.shortcut = conv(channels, channels, 2), conv(in_channels, channels, 2)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.bn1(self.conv1(x)))) + self.shortcut(x))


@pytest.mark.parametrize("side", [32, 64])
def test_the_groups_of_torchvision_resnet18_are_found(side):
    sites = traced_sites(build("torchvision:resnet18", num_classes=10), (3, side, side))
    found = ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert list(sites) == list(sites.values()) == found[: 4 if side == 32 else 5]  # layer4 puts out one pixel at 32


def test_the_default_is_the_first_two_and_any_other_module_is_accepted_by_name():
    network = build("torchvision:resnet18", num_classes=10)
    assert list(find_sites(network, None, (3, 64, 64))) == ["relu", "layer1"]
    assert list(find_sites(network, ["layer3", "layer1.0.bn?"])) == ["layer1.0.bn1", "layer1.0.bn2", "layer3"]
    assert insert(network, "targetdrop", ["layer2", "layer1.0.bn1"]).shapes.keys() == {"layer2", "layer1.0.bn1"}


def test_an_unknown_module_names_the_nearest_and_what_was_found():
    network = build("torchvision:resnet18", num_classes=10)
    with pytest.raises(
        ConfigError, match=r"unknown site 'layr2'; did you mean layer2\? \(found by a trace: relu, layer"
    ):
        find_sites(network, ["layr2"], (3, 64, 64))


def test_a_module_inside_a_halving_block_does_not_stand_for_the_group_before():
    network = Net("group1 group2", group1=nn.Sequential(conv(3, 4), nn.ReLU()), group2=HalvingBlock(4, 8))
    assert list(traced_sites(network)) == ["group1", "group2"]


def test_it_does_where_nothing_else_has_the_resolution():
    assert list(traced_sites(Net("group", group=HalvingBlock(3, 8)))) == ["group.bn1", "group"]


def test_a_wrapped_network_has_the_sites_of_the_wrapped():
    backbone = Net("stem group1 group2", stem=conv(3, 4), group1=conv(4, 8, 2), group2=HalvingBlock(8, 8))
    sites = traced_sites(Net("backbone", backbone=backbone))
    assert list(sites) == ["backbone.stem", "backbone.group1", "backbone"]


def test_the_outermost_of_modules_that_return_one_tensor_stands_for_them():
    group = nn.Sequential(conv(3, 4), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    network = Net("group drop", group=group, drop=nn.Dropout2d(0.5))
    assert list(traced_sites(network)) == ["group"]


def test_a_change_in_place_makes_another_tensor():
    assert list(traced_sites(Net("conv act", conv=conv(3, 4), act=nn.ReLU(inplace=True)))) == ["act"]


def test_a_module_called_more_than_once_is_passed_over():
    network = Net("conv1 act conv2 bn act", conv1=conv(3, 4), act=nn.ReLU(), conv2=conv(4, 4), bn=nn.BatchNorm2d(4))
    assert list(traced_sites(network)) == ["bn"]


@pytest.mark.parametrize(
    "head",
    [
        nn.AdaptiveAvgPool2d(7),
        nn.AvgPool2d(32),
        nn.Flatten(),
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Conv2d(4, 9, 1)),
    ],
)
def test_what_the_head_puts_out_is_no_site(head):
    assert list(traced_sites(Net("conv head", conv=conv(3, 4), head=head))) == ["conv"]


def test_weights_that_modules_make_are_no_sites():
    normed = nn.utils.parametrizations.weight_norm(conv(3, 8))
    net = Net("first second", first=nn.utils.parametrizations.spectral_norm(normed), second=conv(8, 8, 2))
    assert [*traced_sites(net)] == ["first", "second"]


def test_channels_last_maps_are_no_sites():
    class ToChannelsLast(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    assert list(traced_sites(Net("conv last", conv=conv(3, 4), last=ToChannelsLast()))) == ["conv"]


def test_a_network_without_feature_maps_has_no_default():
    with pytest.raises(ConfigError, match="no feature map that a trace can find"):
        insert(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), "targetdrop")


def test_the_trace_takes_the_first_size_that_the_network_accepts():
    network = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 64 * 64, 10))
    assert list(traced_sites(network)) == ["0"]
    with pytest.raises(ConfigError, match="the network refuses images of 3×32×32; choose another network"):
        insert(network, "targetdrop", image_shape=(3, 32, 32))


def test_the_trace_leaves_no_trace():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()).train()
    mean = network[1].running_mean.clone()
    traced_sites(network)
    assert network.training
    assert torch.equal(network[1].running_mean, mean)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_network_that_holds_a_regularizer_is_traced_as_before():
    network = build("torchvision:resnet18", num_classes=10)
    sites = traced_sites(network, (3, 64, 64))
    insert(network, "targetdrop", image_shape=(3, 64, 64))
    assert traced_sites(network, (3, 64, 64)) == sites
