"""MaxDropout against a plain loop: the top of the tensor's value range becomes zero, and nothing else changes."""

import pytest
import torch

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.max_dropout import MaxDropoutConfig
from tdbench.regularizers.max_dropout.layer import MaxDropout
from tests.oracles import max_dropout as oracle


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("shape", [(3, 4, 9, 7), (5, 20), (30,), (1, 1, 1, 1)])
@pytest.mark.parametrize("p", [0.05, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_is_that_of_the_oracle_bit_for_bit_in_a_tensor_of_any_shape(shape, p, dtype):
    x = normal(*shape, dtype=dtype)
    assert torch.equal(MaxDropout(p)(x).double(), oracle.max_dropout(x, p))  # nothing is rescaled


def test_half_types_are_compared_with_the_exact_threshold():
    x = (torch.arange(257) / 256).bfloat16()  # 154 / 256 is above 0.6, and what 0.6 is rounded to
    assert torch.equal(MaxDropout(0.4)(x).double(), oracle.max_dropout(x, 0.4))


def test_half_types_differ_from_the_oracle_by_one_rounding_of_the_threshold_at_most():
    x = normal(100, 500, dtype=torch.bfloat16)
    threshold = float(x.min()) + 0.25 * float(x.max() - x.min())
    out, expected = MaxDropout(0.75)(x).double(), oracle.max_dropout(x, 0.75)
    near = (x.double() - threshold).abs() <= torch.finfo(torch.bfloat16).eps * abs(threshold)
    assert torch.equal(out[~near], expected[~near])


def test_the_range_is_that_of_the_whole_tensor_not_of_a_sample_or_channel():
    x = torch.ones(2, 2, 2, 2)
    x[0, 0, 0] = torch.tensor([0.0, 10.0])
    out = MaxDropout(0.3)(x)
    assert (out == 0).nonzero().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]  # a zero before, and the one large value


def test_the_maximum_goes_and_the_minimum_stays_at_any_rate():
    x = normal(4, 3, 5, 5)
    for p in (0.01, 0.5, 1.0):
        out = MaxDropout(p)(x).flatten()
        assert out[x.flatten().argmax()] == 0
        assert out[x.flatten().argmin()] == x.min()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, -0.3, 1e-40, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_tensor_is_untouched(value, dtype):
    x = torch.full((2, 3, 4, 4), value, dtype=dtype)
    assert torch.equal(MaxDropout(1.0)(x), x)


def test_a_constant_tensor_in_double_precision_is_untouched():
    x = torch.full((2, 3, 4, 4), 0.7, dtype=torch.float64)
    assert torch.equal(MaxDropout(0.3)(x), x)


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_finite_values_give_finite_values_down_to_a_single_unit(p):
    for x in (normal(4, 3, 5, 5), torch.zeros(2, 3), torch.tensor([1e-45, 0.0]), torch.tensor([7.0])):
        assert MaxDropout(p)(x).isfinite().all()


def test_half_the_strength_takes_half_the_length_of_the_range():
    layer, x = MaxDropout(0.6), torch.linspace(0.0, 1.0, 1000) + 0.001
    layer.strength = 0.5
    assert torch.equal(layer(x).double(), oracle.max_dropout(x, 0.3))


def test_a_gradient_passes_where_a_value_stays_and_nowhere_else():
    x = normal(4, 3, 5, 5).requires_grad_()
    MaxDropout(0.3)(x).sum().backward()
    assert torch.equal(x.grad, (oracle.max_dropout(x.detach(), 0.3) != 0).float())


def test_the_default_is_that_of_the_paper_s_code():
    config = MaxDropoutConfig()
    assert (config.p, config.schedule) == (0.3, "constant")


@pytest.mark.parametrize(("p", "rule"), [(-0.1, "between 0 and 1"), (1.5, "between 0 and 1")])
def test_a_rate_out_of_range_is_refused(p, rule):
    with pytest.raises(ConfigError, match=f"regularizer.p must be {rule}, got {p}"):
        load_config(overrides={"regularizer": "max_dropout", "p": p})
    with pytest.raises(ValueError, match=f"p must be between 0 and 1, got {p}"):
        MaxDropout(p)
