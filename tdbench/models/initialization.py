"""Initial weights of networks with ReLUs.

He et al., "Delving Deep into Rectifiers", arXiv 1502.01852, in the fan-out form (its equation 14), as in the papers of
the networks built here.
"""

from torch import nn


def draw_he_weights(network: nn.Module) -> None:
    """Draw each convolution's weights from N(0, 2 / (channels out · kernel area)); set the linear biases to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
