"""Residual networks for small images, with named sites for a regularizer.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385: the CIFAR networks of section 4.2 (three
groups of 16/32/64 channels, parameter-free shortcuts, "option A"), and ResNet-18/34 with the small-image stem that the
regularization papers use (3×3, no max-pool, four groups of 64/128/256/512, projection shortcuts).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """A residual branch and a shortcut; a ReLU follows their sum.

    Attributes:
        sites: Site within the block to the child whose output it is: `conv1` (the first convolution, after its ReLU)
            and `branch` (the residual branch just before the sum).
    """

    sites: ClassVar[dict[str, str]]
    shortcut: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def branch(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride), before the shortcut is added."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        return self.relu(self.branch(x) + self.shortcut(x))


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions and a shortcut; the second ReLU follows the sum."""

    sites: ClassVar[dict[str, str]] = {"conv1": "relu1", "branch": "bn2"}

    def __init__(self, in_channels: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = (
            projected_shortcut(in_channels, channels, stride)
            if projection
            else padded_shortcut(in_channels, channels, stride)
        )

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))


def projected_shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    """Return option B: the identity where the shape allows it, else a 1×1 convolution with batch norm."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def padded_shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    """Return option A: the identity where the shape allows it, else the input subsampled and zero-padded."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return PaddedShortcut(stride, channels - in_channels)


class PaddedShortcut(nn.Module):
    """Option A: every stride-th pixel, and zeros for the new channels, half of them on either side."""

    def __init__(self, stride: int, num_new_channels: int) -> None:
        super().__init__()
        self.stride, self.num_new_channels = stride, num_new_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + num_new_channels, H / stride, W / stride)."""
        before = self.num_new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.num_new_channels - before))


class ResNet(nn.Module):
    """A stem, groups of residual blocks (`stage1`, `stage2`, ...), global average pooling, one linear layer.

    Args:
        block: (in_channels, channels, stride) -> a block.
        num_blocks: Blocks in each group.
        widths: Output channels of each group; every group but the first halves height and width.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        stem_channels: Output channels of the stem; None: those of the first group.

    Attributes:
        regularizer_sites: Site name to the module whose output it is: `stage1` (the output of a group),
            `stage1.block2` (of a block), `stage1.block2.conv1` (of its first convolution, after its ReLU),
            `stage1.block2.branch` (of its residual branch, before the sum).
    """

    def __init__(
        self,
        block: Callable[[int, int, int], ResidualBlock],
        num_blocks: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        stem_channels: int | None = None,
    ) -> None:
        super().__init__()
        channels = stem_channels or widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.regularizer_sites: dict[str, str] = {}
        for stage, (depth, width) in enumerate(zip(num_blocks, widths, strict=True), 1):
            group = nn.Sequential()
            self.regularizer_sites[f"stage{stage}"] = f"stage{stage}.block{depth}.relu"
            for number in range(1, depth + 1):
                residual = block(channels, width, 2 if number == 1 and stage > 1 else 1)
                group.add_module(f"block{number}", residual)
                path = f"stage{stage}.block{number}"
                self.regularizer_sites[path] = f"{path}.relu"
                for site, child in residual.sites.items():
                    self.regularizer_sites[f"{path}.{site}"] = f"{path}.{child}"
                channels = width
            self.add_module(f"stage{stage}", group)
        self.num_stages = len(widths)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.stem(x)
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"stage{stage}")(x)
        return self.classifier(x.mean(dim=(2, 3)))


def cifar_resnet(depth: int, num_classes: int, in_channels: int) -> ResNet:
    """Return ResNet-`depth` with 16/32/64 channels; depth = 6n + 2, n blocks per group."""
    block = partial(BasicBlock, projection=False)
    return ResNet(block, [(depth - 2) // 6] * 3, (16, 32, 64), num_classes, in_channels)


def wide_stem_resnet(num_blocks: Sequence[int], num_classes: int, in_channels: int) -> ResNet:
    """Return ResNet-18 (2, 2, 2, 2) or ResNet-34 (3, 4, 6, 3) for small images."""
    return ResNet(partial(BasicBlock, projection=True), num_blocks, (64, 128, 256, 512), num_classes, in_channels)
