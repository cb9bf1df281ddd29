"""A user's network in a file, and what that file imports."""

NET = """
from torch import nn
import blocks
def make_model(num_classes, in_channels):
    return nn.Sequential(blocks.stem(in_channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""
BLOCKS = """
from torch import nn
def stem(in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU())
"""
