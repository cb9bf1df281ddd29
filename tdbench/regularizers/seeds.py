"""Positions of the rare ones among very many Bernoulli draws, without making the draws that give zeros."""

import math

import torch
from torch import Tensor


def bernoulli_positions(length: int, rate: float) -> Tensor:
    """Return the ascending positions of the ones among `length` independent Bernoulli(rate) draws, on the CPU.

    The gaps between them are geometric, so that only as many numbers are drawn as there are ones.
    """
    if rate >= 1:
        return torch.arange(length)
    if rate <= 0 or length == 0:
        return torch.empty(0, dtype=torch.int64)
    found, last = [], -1.0
    while last < length - 1:
        expected = (length - 1 - last) * rate
        draws = torch.rand(int(expected + 4 * math.sqrt(expected)) + 8, dtype=torch.float64)
        gaps = (torch.log1p(-draws) / math.log1p(-rate)).floor() + 1
        found.append(gaps.cumsum(0) + last)
        last = float(found[-1][-1])
    positions = torch.cat(found)
    return positions[positions < length].long()
