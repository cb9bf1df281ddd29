"""ResNeXt for small images.

Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", arXiv 1611.05431, section 5.3: a 3×3 stem
of 64 channels, three groups of 256/512/1024 output channels, bottleneck blocks whose 3×3 convolution is grouped.
"""

from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from tdbench.models.resnet import ResidualBlock, ResNet, projected_shortcut

WIDTHS = (256, 512, 1024)


class GroupedBottleneck(ResidualBlock):
    """1×1, grouped 3×3 (with the stride) and 1×1 convolutions, and a shortcut; the last ReLU follows the sum."""

    sites: ClassVar[dict[str, str]] = {"conv1": "relu1", "branch": "bn3"}

    def __init__(self, in_channels: int, channels: int, stride: int, cardinality: int, base_width: int) -> None:
        super().__init__()
        inner = cardinality * base_width * channels // WIDTHS[0]
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=cardinality, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = projected_shortcut(in_channels, channels, stride)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def resnext(depth: int, cardinality: int, base_width: int, num_classes: int, in_channels: int) -> ResNet:
    """Return ResNeXt-`depth`, `cardinality` × `base_width`d; depth = 9n + 2, n blocks per group."""
    block = partial(GroupedBottleneck, cardinality=cardinality, base_width=base_width)
    network = ResNet(block, [(depth - 2) // 9] * 3, WIDTHS, num_classes, in_channels, stem_channels=64)
    nn.init.zeros_(network.classifier.bias)
    return network
