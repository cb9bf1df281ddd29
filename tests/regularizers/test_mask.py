"""The mask of any layer, as everything that looks at a layer reads it."""

import pytest
import torch
from torch import nn

from tdbench.regularizers.mask import mask_of


def test_the_mask_is_zero_where_a_unit_is_dropped_and_its_scale_elsewhere_whatever_the_unit():
    mask = torch.tensor([0.0, 2.0, 2.0, 0.0]).view(1, 1, 2, 2)
    x = torch.tensor([0.0, 0.0, 3.0, -1.0]).view(1, 1, 2, 2)
    found, out = mask_of(lambda x: x * mask, x)
    assert torch.equal(found, mask)
    assert torch.equal(out, x * mask)
    assert not out.requires_grad


def test_a_layer_may_work_in_place_and_its_input_stays():
    x = torch.ones(1, 1, 2, 2)
    found, _ = mask_of(lambda x: x.mul_(3), x)
    assert torch.equal(found, torch.full_like(x, 3))
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize("layer", [lambda x: x.detach(), lambda x: torch.ones_like(x)])
def test_where_no_gradient_passes_the_mask_is_zero(layer):
    found, _ = mask_of(layer, torch.ones(2, 3, 4, 4))
    assert not found.any()


def test_it_is_the_mask_under_no_grad_too_and_nothing_else_gets_a_gradient():
    layer = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        found, _ = mask_of(layer, torch.ones(1, 3, 2, 2))
    assert found.any()
    assert layer.weight.grad is None
