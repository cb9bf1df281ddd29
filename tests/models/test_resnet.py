"""A residual block is its branch plus its shortcut, in every residual network."""

from functools import partial

import pytest
import torch
from torch import nn

from tdbench.models.build import build
from tdbench.models.resnext import resnext
from tdbench.models.wide_resnet import PreActivationBlock

RESIDUAL = {
    "resnet8": partial(build, "resnet8"),  # padded shortcuts
    "resnet18": partial(build, "resnet18"),  # projected ones
    "se_resnet18": partial(build, "se_resnet18"),
    "wrn_16_2": partial(build, "wrn_16_2"),
    "resnext11_2x4d": partial(resnext, 11, 2, 4),
}


def shortcut_alone(block, x):
    """Return what the block should put out if its branch is zero."""
    if isinstance(block, PreActivationBlock):
        return x if block.projection is None else block.projection(torch.relu(block.bn1(x)))
    return torch.relu(block.shortcut(x))


@pytest.mark.parametrize("network", RESIDUAL.values(), ids=RESIDUAL)
def test_zeroing_the_branch_site_leaves_the_shortcut(network):
    torch.manual_seed(0)
    network = network(num_classes=10, in_channels=3).eval()
    branches = {site: path for site, path in network.regularizer_sites.items() if site.endswith(".branch")}
    assert len(branches) == sum(site.count(".") == 1 for site in network.regularizer_sites)
    for site, path in branches.items():
        block = network.get_submodule(site.removesuffix(".branch"))
        in_channels = next(module.in_channels for module in block.modules() if isinstance(module, nn.Conv2d))
        x = torch.randn(2, in_channels, 8, 8)
        assert not torch.equal(block(x), shortcut_alone(block, x))
        network.get_submodule(path).register_forward_hook(lambda _, args, out: torch.zeros_like(out))
        assert torch.equal(block(x), shortcut_alone(block, x)), site


def test_the_stages_halve_the_map():
    network = build("resnet8", num_classes=10, in_channels=1).eval()
    x, sides = network.stem(torch.zeros(1, 1, 32, 32)), []
    for stage in (network.stage1, network.stage2, network.stage3):
        x = stage(x)
        sides.append((x.shape[1], x.shape[2]))
    assert sides == [(16, 32), (32, 16), (64, 8)]
