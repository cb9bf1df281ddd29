"""VGG with batch norm, for small images.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556, table 1
(A, B, D, E): 3×3 convolutions in five groups, each followed by max-pooling. As usual for small images, each
convolution has batch norm in place of a bias, and global average pooling and one linear layer replace the three fully
connected layers. A stage's site is before the pooling, after the group's last ReLU: there the map still has its full
size, and a dropped block is not reduced to a pixel.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tdbench.models.initialization import draw_he_weights

WIDTHS = (64, 128, 256, 512, 512)
NUM_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def conv_block(in_channels: int, channels: int) -> nn.Sequential:
    """Return a 3×3 convolution with batch norm and ReLU: (N, in_channels, H, W) to (N, channels, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class VGG(nn.Module):
    """Five groups of convolutions, each followed by 2×2 max-pooling, global average pooling, one linear layer.

    Attributes:
        regularizer_sites: Site name to the module whose output it is: `stage1` (the output of a group, before its
            pooling), `stage1.block2` (of its second convolution, after its ReLU).
    """

    def __init__(self, num_convs: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.regularizer_sites: dict[str, str] = {}
        channels = in_channels
        for stage, (depth, width) in enumerate(zip(num_convs, WIDTHS, strict=True), 1):
            group = nn.Sequential()
            self.regularizer_sites[f"stage{stage}"] = f"stage{stage}"
            for number in range(1, depth + 1):
                group.add_module(f"block{number}", conv_block(channels, width))
                path = f"stage{stage}.block{number}"
                self.regularizer_sites[path] = path
                channels = width
            self.add_module(f"stage{stage}", group)
        self.classifier = nn.Linear(channels, num_classes)
        draw_he_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W), at least 32×32, to logits (N, num_classes)."""
        for stage in range(1, len(WIDTHS) + 1):
            x = F.max_pool2d(self.get_submodule(f"stage{stage}")(x), 2)
        return self.classifier(x.mean(dim=(2, 3)))


def vgg_bn(depth: int, num_classes: int, in_channels: int) -> VGG:
    """Return VGG-`depth` with batch norm; depth 11, 13, 16 or 19."""
    return VGG(NUM_CONVS[depth], num_classes, in_channels)
