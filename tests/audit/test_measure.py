"""What is read off a mask, against plain loops."""

import re

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tdbench.audit.measure import draw_mask, read, shortest_run


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4))
def test_the_shortest_run_is_that_of_each_row_between_two_units_that_are_kept(rows):
    drawn = ["".join("x" if dropped else "." for dropped in row) for row in rows]
    runs = [len(run) for row in drawn for run in re.findall(r"(?<=\.)x+(?=\.)", row)]
    assert shortest_run(torch.tensor(rows)[:, None]) == min(runs, default=None)


def mask_of(*samples):
    """Return a mask (N, C, 1, W) from rows of 0 and 1."""
    return torch.tensor(samples, dtype=torch.float32)[:, :, None]


def figures(mask):
    return read(mask, torch.ones_like(mask), mask)


def test_whole_maps_and_whole_samples_are_told_from_parts():
    part = figures(mask_of([[1, 0, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]))
    maps = figures(mask_of([[0, 0, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]))
    samples = figures(mask_of([[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]))
    assert [(one.whole_maps, one.whole_samples) for one in (part, maps, samples)] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert [one.num_dropped for one in (part, maps, samples)] == [1, 3, 6]


def test_a_mask_that_channels_or_samples_share_is_told_where_a_sample_is_dropped_in_part():
    one_for_channels = figures(mask_of([[1, 0, 1], [1, 0, 1]], [[0, 1, 1], [0, 1, 1]]))
    one_for_batch = figures(mask_of([[1, 0, 1], [1, 1, 1]], [[1, 0, 1], [1, 1, 1]]))
    whole = figures(mask_of([[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]))
    assert (one_for_channels.one_for_channels, one_for_channels.one_for_batch) == (True, False)
    assert (one_for_batch.one_for_channels, one_for_batch.one_for_batch) == (False, True)
    assert (whole.one_for_channels, whole.one_for_batch) == (None, None)


def test_the_scale_is_that_of_what_is_kept():
    drawn = figures(mask_of([[2, 0, 4]]))
    assert (drawn.kept_scale, drawn.top_scale) == (3.0, 4.0)


class Half(nn.Module):
    """Drops the first channel and doubles the rest, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, x):
        keep = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
        return x.mul_(keep) if self.in_place else x * keep


def test_units_that_were_zero_before_are_not_taken_for_dropped_ones():
    x = torch.zeros(3, 2, 4, 4)
    drawn = draw_mask(Half(in_place=False), x)
    assert (drawn.num_dropped, drawn.num_units, drawn.kept_scale, drawn.changes) == (48, 96, 2.0, False)


def test_a_layer_may_write_into_its_input():
    x = torch.rand(3, 2, 4, 4)
    before = x.clone()
    assert draw_mask(Half(in_place=True), x) == draw_mask(Half(in_place=False), x)
    assert torch.equal(x, before)
