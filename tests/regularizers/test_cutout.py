"""Cutout against a plain loop: one clipped square per image, its centre uniform, nothing rescaled."""

import math
import statistics

import pytest
import torch
from scipy.stats import chi2

from tdbench import load_config
from tdbench.errors import ConfigError
from tdbench.regularizers.cutout import CutoutConfig
from tdbench.regularizers.cutout.layer import Cutout
from tests.oracles import cutout as oracle


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5


def bounds(covered):
    """Return the first covered position and the one after the last, along the last dimension."""
    first = covered.int().argmax(dim=-1)
    return first, first + covered.sum(dim=-1)


def centres(out, size):
    """Return the row and the column (N,) of each hole's centre; its clipped end gives it away, or its start."""
    dropped, found = out[:, 0] == 0, []
    for covered in (dropped.any(dim=2), dropped.any(dim=1)):
        first, end = bounds(covered)
        found.append(torch.where(first > 0, first, end - size) + size // 2)
    return found


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 16), (32, 32, 8), (12, 20, 5), (9, 7, 1), (6, 8, 7)])
def test_each_image_loses_the_clipped_square_round_its_centre_in_all_channels(height, width, size):
    x = images(64, 3, height, width)
    torch.manual_seed(0)
    out = Cutout(size)(x)
    for image, result, *centre in zip(x, out, *(one.tolist() for one in centres(out, size)), strict=True):
        expected = image.clone()
        for row, col in oracle.hole(height, width, tuple(centre), size):
            expected[:, row, col] = 0
        assert torch.equal(result, expected)  # bit for bit: nothing is rescaled


def test_a_hole_that_does_not_reach_the_border_has_the_side_l():
    torch.manual_seed(0)
    out = Cutout(8)(images(500, 1, 32, 32))
    for covered in ((out[:, 0] == 0).any(dim=2), (out[:, 0] == 0).any(dim=1)):
        first, end = bounds(covered)
        inside = (first > 0) & (end < 32)
        assert ((end - first)[inside] == 8).all()
        assert ((end - first) >= 4).all()  # at least half of it stays in the image
        assert inside.any()
        assert not inside.all()


@pytest.mark.parametrize(("size", "percent"), [(16, 19.1), (8, 5.5)])
def test_the_mean_masked_area_is_below_the_square_of_l_by_the_side(size, percent):
    n, areas = 4000, oracle.areas(32, size)
    torch.manual_seed(0)
    share = float((Cutout(size)(torch.ones(n, 1, 32, 32)) == 0).double().mean())
    bound = 5 * statistics.pstdev(areas) / math.sqrt(n)
    assert abs(share - statistics.fmean(areas)) <= bound
    assert share + bound < (size / 32) ** 2
    assert round(100 * statistics.fmean(areas), 1) == percent


@pytest.mark.parametrize("size", [5, 8, 12])
def test_the_centre_is_uniform_over_the_image(size):
    n, side = 40000, 16
    torch.manual_seed(0)
    rows, cols = centres(Cutout(size)(torch.ones(n, 1, side, side)), size)
    observed = (rows * side + cols).bincount(minlength=side**2).double()
    assert len(observed) == side**2
    expected = n / side**2
    assert ((observed - expected) ** 2 / expected).sum() <= chi2.isf(1e-6, side**2 - 1)


def test_a_hole_larger_than_the_image_still_has_its_centre_in_it():
    torch.manual_seed(0)
    out = Cutout(17)(torch.ones(2000, 1, 8, 8))  # 8 pixels to each side of the centre
    assert torch.equal(out, torch.zeros_like(out))


def test_half_the_strength_cuts_half_of_the_images_and_those_whole():
    n, layer = 4000, Cutout(8)
    layer.strength = 0.5
    torch.manual_seed(0)
    out = layer(torch.ones(n, 2, 16, 16))
    areas = (out == 0).sum(dim=(1, 2, 3))
    assert abs(float((areas > 0).double().mean()) - 0.5) <= 5 * math.sqrt(0.25 / n)
    assert set(areas.tolist()) <= {0, *(round(2 * 256 * area) for area in oracle.areas(16, 8))}


def test_the_default_is_the_hole_of_cifar_10_cut_into_the_input():
    config = CutoutConfig()
    assert (config.size, config.schedule, config.placement) == (16, "constant", "input")


@pytest.mark.parametrize("size", [0, -3])
def test_a_hole_without_a_side_is_refused(size):
    with pytest.raises(ConfigError, match=f"regularizer.size must be at least 1, got {size}"):
        load_config(overrides={"regularizer": "cutout", "size": size})
    with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
        Cutout(size)
