"""No built-in method, at its defaults and its own sites, is at fault in a network that passes its maps on."""

from importlib.util import find_spec

import pytest
import torch

from tdbench import insert
from tdbench.audit.network import audit_network
from tdbench.errors import ConfigError
from tdbench.models.build import build
from tdbench.regularizers.registry import method_names

OWN = ("resnet8", "resnet14", "resnet20", "wrn_10_1", "wrn_10_2", "wrn_16_1", "vgg11_bn")
TORCHVISION = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5")
TIMM = ("resnet10t",)
NETWORKS = (*OWN, *(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM))


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("name", NETWORKS)
def test_a_method_is_at_no_fault_in_a_sound_network(name, method):
    if name.startswith("timm:") and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    side = 32 if name in OWN else 64
    torch.manual_seed(0)
    model = build(name, num_classes=10, in_channels=3)
    if method == "drop_path" and not name.startswith(("resnet", "wrn")):
        with pytest.raises(ConfigError, match="drops residual branches, and"):
            insert(model, method, image_shape=(3, side, side))
        return
    insertion = insert(model, method, image_shape=(3, side, side))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 4, 3, side, side, generator=generator).cumsum(4) / 4
    batches = [(batch, torch.arange(4)) for batch in images]
    assert audit_network(model, insertion, batches, num_draws=2).faults == []
