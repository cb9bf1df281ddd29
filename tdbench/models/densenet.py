"""DenseNet-BC for small images.

Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993, section 3: three dense blocks, here called
groups as in the other networks; a layer sees the maps of all layers before it in its group; bottleneck (B) and
compression by half (C). Each convolution of a layer follows its own batch norm and ReLU, so that a group's output is
not activated. A stage's site is the group's output after the batch norm and ReLU that follow it, in the transition or
before the classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdbench.models.initialization import draw_he_weights


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 1×1 convolution to 4 · growth channels, batch norm, ReLU and a 3×3 convolution."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to the (N, growth, H, W) that its group appends."""
        x = self.conv1(self.relu1(self.bn1(x)))
        return self.conv2(self.relu2(self.bn2(x)))


class DenseGroup(nn.Module):
    """Layers `block1`, `block2`, ..., each of which appends `growth` channels to its input."""

    def __init__(self, num_layers: int, in_channels: int, growth: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        for number in range(num_layers):
            self.add_module(f"block{number + 1}", DenseLayer(in_channels + number * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + num_layers · growth, H, W)."""
        for number in range(1, self.num_layers + 1):
            x = torch.cat([x, self.get_submodule(f"block{number}")(x)], dim=1)
        return x


class Transition(nn.Module):
    """Batch norm, ReLU, a 1×1 convolution to half the channels, 2×2 average pooling."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C / 2, H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(self.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """A stem, three dense groups with transitions between them, global average pooling, one linear layer.

    Attributes:
        regularizer_sites: Site name to the module whose output it is: `stage1` (the output of a group, after the batch
            norm and ReLU that follow it), `stage1.block2` (the channels that a layer appends, not activated),
            `stage1.block2.conv1` (its bottleneck convolution, after its ReLU).
    """

    def __init__(self, layers_per_group: int, growth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.regularizer_sites: dict[str, str] = {}
        for stage in (1, 2, 3):
            self.add_module(f"stage{stage}", DenseGroup(layers_per_group, channels, growth))
            self.regularizer_sites[f"stage{stage}"] = f"transition{stage}.relu" if stage < 3 else "relu"
            for number in range(1, layers_per_group + 1):
                path = f"stage{stage}.block{number}"
                self.regularizer_sites |= {path: path, f"{path}.conv1": f"{path}.relu2"}
            channels += layers_per_group * growth
            if stage < 3:
                self.add_module(f"transition{stage}", Transition(channels))
                channels //= 2
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(channels, num_classes)
        draw_he_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.stem(x)
        for module in ("stage1", "transition1", "stage2", "transition2", "stage3"):
            x = self.get_submodule(module)(x)
        return self.classifier(self.relu(self.bn(x)).mean(dim=(2, 3)))


def densenet_bc(depth: int, growth: int, num_classes: int, in_channels: int) -> DenseNet:
    """Return DenseNet-BC (`depth`, `growth`); depth = 6n + 4, n layers per group."""
    return DenseNet((depth - 4) // 6, growth, num_classes, in_channels)
