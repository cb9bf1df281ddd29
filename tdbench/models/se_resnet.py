"""ResNet-18 for small images whose residual branches are weighted by channel.

Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507: the mean of each channel passes two linear layers and
a sigmoid, and scales its channel of the residual branch before the sum; reduction 16. The linear layers have no
biases, as in the paper's count of parameters (equation 5).
"""

from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from tdbench.models.resnet import BasicBlock, ResNet


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1) that is computed from the means of all channels."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        gate = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class SEBasicBlock(BasicBlock):
    """A basic block whose residual branch ends in squeeze-and-excitation."""

    sites: ClassVar[dict[str, str]] = {"conv1": "relu1", "branch": "se"}

    def __init__(self, in_channels: int, channels: int, stride: int, reduction: int) -> None:
        super().__init__(in_channels, channels, stride, projection=True)
        self.se = SqueezeExcitation(channels, reduction)

    def branch(self, x: Tensor) -> Tensor:
        return self.se(super().branch(x))


def se_resnet18(num_classes: int, in_channels: int) -> ResNet:
    block = partial(SEBasicBlock, reduction=16)
    network = ResNet(block, (2, 2, 2, 2), (64, 128, 256, 512), num_classes, in_channels)
    nn.init.zeros_(network.classifier.bias)
    return network
