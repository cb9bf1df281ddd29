"""Every method under torch.compile, without a graph break, while a schedule raises its strength."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tdbench.regularizers.registry import find_method, method_names

# Knobs with which a few draws suffice to see the share.
STRONG = {
    "attentiondrop": {"p": 1.0, "block_size": 1},
    "cutout": {"size": 6},
    "corrdrop": {"block_size": 3},
    "dropblock": {"p": 0.3, "block_size": 3},
    "focused_dropout": {"participation": 1.0},
    "targetdrop": {"drop_ratio": 0.6},
}


@pytest.mark.parametrize("name", [name for name in method_names() if name != "none"])
def test_a_rising_strength_drops_the_share_of_the_eager_layer_and_is_compiled_only_a_few_times(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    num_channels = 32 if name == "targetdrop" else 8  # K is 1 to 19
    x = torch.rand(8, num_channels, 10, 10) + 0.1
    layer = find_method(name)(**STRONG.get(name, {})).build(num_channels).train()
    if layer.rises_live:  # as in a run
        layer.live_strength = torch.ones((), dtype=torch.float64)
    # torch 2.6 compiles anew for each number, whatever it is for, where a real backend is asked.
    backend = "aot_eager" if torch.__version__ >= (2, 7) else "eager"
    compiler = CompileCounterWithBackend(backend)  # runs the captured graph as it is, and counts the captures
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    shares, differences = [], []
    for step in range(20):
        layer.set_strength((step + 1) / 20)
        for _ in range(10):
            ours, eager = (float((call(x) == 0).double().mean()) for call in (compiled, layer))
            shares.append(eager)
            differences.append(ours - eager)
    difference = torch.tensor(differences, dtype=torch.float64)
    bound = 5 * float(difference.std()) / math.sqrt(len(difference))
    mean_share = sum(shares) / len(shares)
    assert mean_share > 0
    assert abs(float(difference.mean())) <= bound
    assert bound < mean_share / 2  # the comparison means something
    assert compiler.frame_count <= 4  # and not once for each strength


@pytest.mark.parametrize("name", ["max_dropout", "targetdrop"])
def test_a_method_that_draws_nothing_gives_the_eager_output_at_each_strength(name):
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.rand(4, 8, 6, 6) + 0.1
    layer = find_method(name)().build(8).train()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for strength in (0.0, 0.25, 0.5, 0.9, 1.0):
        layer.strength = strength
        torch.testing.assert_close(compiled(x), layer(x))
