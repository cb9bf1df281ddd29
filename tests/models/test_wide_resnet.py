"""Any WRN-D-K can be had by its name, and no other."""

import pytest

from tdbench.config.networks import find_network
from tdbench.errors import ConfigError
from tdbench.models.build import build


@pytest.mark.parametrize(("name", "num_blocks"), [("wrn_10_1", 1), ("wrn_22_3", 3)])
def test_any_possible_depth_and_width_is_accepted(name, num_blocks):
    network = build(name, 10, 3)
    assert [len(stage) for stage in (network.stage1, network.stage2, network.stage3)] == [num_blocks] * 3
    assert network.classifier.in_features == 64 * int(name[-1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrn_17_4", r"depth of wrn_17_4 must be 6n \+ 4 .* got 17; did you mean wrn_16_4 or wrn_22_4\?"),
        ("wrn_27_10", "got 27; did you mean wrn_22_10 or wrn_28_10"),
        ("wrn_4_2", r"got 4; did you mean wrn_10_2\?"),
        ("wrn_16_0", "widening factor of wrn_16_0 must be at least 1, got 0"),
        ("wrn_16", "unknown model 'wrn_16'; did you mean wrn_16_4"),
    ],
)
def test_an_impossible_one_is_refused_with_the_reason(name, message):
    with pytest.raises(ConfigError, match=message):
        find_network(name)
