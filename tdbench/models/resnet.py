"""Residual networks for small images, with named sites for a regularizer.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385: the CIFAR networks of section 4.2 (three
groups of 16/32/64 channels, parameter-free shortcuts, "option A"), and ResNet-18/34 with the small-image stem that the
regularization papers use (3×3, no max-pool, four groups of 64/128/256/512, projection shortcuts).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the second ReLU follows the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = (
                nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
                if projection
                else PaddedShortcut(stride, channels - in_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


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

    Attributes:
        regularizer_sites: Site name to the module whose output it is: `stage1` (the output of a group),
            `stage1.block2` (of a block), `stage1.block2.conv1` (of its first convolution, after its ReLU).
    """

    def __init__(
        self,
        num_blocks: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        in_channels: int = 3,
        projection: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.regularizer_sites: dict[str, str] = {}
        channels = widths[0]
        for stage, (depth, width) in enumerate(zip(num_blocks, widths, strict=True), 1):
            group = nn.Sequential()
            self.regularizer_sites[f"stage{stage}"] = f"stage{stage}"
            for block in range(1, depth + 1):
                stride = 2 if block == 1 and stage > 1 else 1
                group.add_module(f"block{block}", BasicBlock(channels, width, stride, projection))
                site = f"stage{stage}.block{block}"
                self.regularizer_sites |= {site: site, f"{site}.conv1": f"{site}.relu1"}
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
    """Return ResNet-`depth` with 16/32/64 channels; depth = 6n + 2, n blocks a group."""
    return ResNet([(depth - 2) // 6] * 3, (16, 32, 64), num_classes, in_channels)


def wide_stem_resnet(num_blocks: Sequence[int], num_classes: int, in_channels: int) -> ResNet:
    """Return ResNet-18 (2, 2, 2, 2) or ResNet-34 (3, 4, 6, 3) for small images."""
    return ResNet(num_blocks, (64, 128, 256, 512), num_classes, in_channels, projection=True)
