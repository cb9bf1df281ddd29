"""Class-activation maps: where in an image a network found the class that it predicts.

Grad-CAM, Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
2017, on the last feature map: each channel is weighted by the mean gradient of the class's logit (eq. 1), and the sum
goes through a ReLU (eq. 2). Where that map goes straight into global average pooling and one linear layer, this is the
CAM of Zhou et al., arXiv 1512.04150, up to a factor.
"""

import torch
from torch import Tensor, nn

from tdbench.errors import ConfigError
from tdbench.models.tracing import evaluating, traced_sites


def grad_cam(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class-activation maps of the predicted classes, in evaluation mode.

    Args:
        model: A network that maps images to logits (N, num_classes).
        images: (N, C, H, W), normalised, on the network's device.

    Returns:
        Maps (N, h, w) of the last feature map's size, each divided by its maximum, so that they lie in [0, 1]; and the
        predicted classes (N,).

    Raises:
        ConfigError: A trace finds no feature map.
    """
    sites = traced_sites(model, (images.shape[1], images.shape[2], images.shape[3]))
    if not sites:
        raise ConfigError(
            "the network puts out no feature map that a trace can find, so it has no class-activation map"
        )
    features: list[Tensor] = []
    last = model.get_submodule(list(sites.values())[-1])
    handle = last.register_forward_hook(lambda module, args, output: features.append(output))
    try:
        with evaluating(model), torch.enable_grad():
            logits = model(images)
    finally:
        handle.remove()
    predicted = logits.argmax(dim=1)
    (gradient,) = torch.autograd.grad(logits.gather(1, predicted[:, None]).sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * features[0]).sum(dim=1).relu().detach()
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny), predicted
