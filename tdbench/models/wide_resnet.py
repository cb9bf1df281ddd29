"""Wide residual networks (WRN-D-K) for small images.

Zagoruyko & Komodakis, "Wide Residual Networks", arXiv 1605.07146: a 3×3 stem of 16 channels, three groups of
16K/32K/64K, pre-activation blocks, then the last batch norm and ReLU. A block's output is a sum that may be negative
and that the next batch norm shifts, so that a zero there is not an inactive unit. A stage's site is therefore the
group's output after the batch norm and ReLU that follow it, through which both the branch and the shortcut of the next
group pass; a block's site is the sum itself.
"""

from typing import ClassVar

from torch import Tensor, nn

from tdbench.models.initialization import draw_he_weights


class PreActivationBlock(nn.Module):
    """Batch norm, ReLU and a 3×3 convolution, twice, and a shortcut; nothing follows the sum.

    Attributes:
        sites: Site within the block to the child whose output it is: `conv1` (between the two convolutions, after the
            ReLU, where the paper has its dropout) and `branch` (the residual branch just before the sum).
    """

    sites: ClassVar[dict[str, str]] = {"conv1": "relu2", "branch": "conv2"}

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.projection: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        active = self.relu1(self.bn1(x))
        branch = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return branch + (x if self.projection is None else self.projection(active))


class WideResNet(nn.Module):
    """A stem, three groups of pre-activation blocks, batch norm and ReLU, global average pooling, one linear layer.

    Attributes:
        regularizer_sites: Site name to the module whose output it is: `stage1` (the output of a group, after the batch
            norm and ReLU that follow it), `stage1.block2` (the sum of a block, not activated), `stage1.block2.conv1`
            (between its convolutions, after the ReLU), `stage1.block2.branch` (its residual branch, before the sum).
    """

    def __init__(self, blocks_per_group: int, widening: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = 16
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.regularizer_sites: dict[str, str] = {}
        for stage, width in enumerate((16 * widening, 32 * widening, 64 * widening), 1):
            group = nn.Sequential()
            self.regularizer_sites[f"stage{stage}"] = f"stage{stage + 1}.block1.relu1" if stage < 3 else "relu"
            for number in range(1, blocks_per_group + 1):
                block = PreActivationBlock(channels, width, 2 if number == 1 and stage > 1 else 1)
                group.add_module(f"block{number}", block)
                path = f"stage{stage}.block{number}"
                self.regularizer_sites[path] = path
                for site, child in block.sites.items():
                    self.regularizer_sites[f"{path}.{site}"] = f"{path}.{child}"
                channels = width
            self.add_module(f"stage{stage}", group)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(channels, num_classes)
        draw_he_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.stem(x)
        for stage in (1, 2, 3):
            x = self.get_submodule(f"stage{stage}")(x)
        return self.classifier(self.relu(self.bn(x)).mean(dim=(2, 3)))


def wide_resnet(depth: int, widening: int, num_classes: int, in_channels: int) -> WideResNet:
    """Return WRN-`depth`-`widening`; depth = 6n + 4, n blocks per group."""
    return WideResNet((depth - 4) // 6, widening, num_classes, in_channels)
