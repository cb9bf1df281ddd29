"""Grad-CAM on the last feature map, which is CAM where pooling and one linear layer follow (arXiv 1512.04150)."""

import pytest
import torch
from torch import nn

from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.show.class_activation import grad_cam


@pytest.fixture
def images():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def network(name="resnet8"):
    torch.manual_seed(0)
    return build(name, num_classes=4, in_channels=3)


def test_it_is_cam_where_global_pooling_and_a_linear_layer_follow(images):
    model = network().eval()
    maps, predicted = grad_cam(model, images)
    features = []
    model.stage3.register_forward_hook(lambda module, args, out: features.append(out))
    logits = model(images)
    assert torch.equal(predicted, logits.argmax(1))
    for sample, label in enumerate(predicted.tolist()):
        weights = model.classifier.weight[label]
        cam = torch.zeros(8, 8)
        for channel in range(64):
            cam += weights[channel].item() * features[0][sample, channel].detach()
        cam = cam.clamp(min=0)
        torch.testing.assert_close(maps[sample], cam / cam.max())


@pytest.mark.parametrize("name", ["resnet8", "vgg11_bn", "wrn_10_1"])
def test_each_map_lies_between_0_and_1(name, images):
    maps, _ = grad_cam(network(name), images)
    assert maps.shape[0] == 5
    assert min(maps.shape[1:]) > 1
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert set(maps.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}


def test_the_network_is_left_as_it_was(images):
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grad_cam(model, images)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_without_feature_maps_has_none(images):
    with pytest.raises(ConfigError, match="no feature map"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), images)
