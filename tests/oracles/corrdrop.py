"""Spatial CorrDrop in plain loops, after the public code of Zeng et al. (Pattern Recognition 2021). Check it by eye."""

import itertools
import math

import torch
from torch import Tensor


def cells(height: int, width: int, block_size: int) -> list[list[tuple[int, int]]]:
    """The units of each cell, row by row of cells; the last ones of a row or column are what is left of the map."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row in range(height):
        for col in range(width):
            found.setdefault((row // block_size, col // block_size), []).append((row, col))
    return [found[key] for key in sorted(found)]


def cell_scores(sample: Tensor, block_size: int) -> list[float]:
    """The mean |cosine| of a cell's channel vector, its average over the cell, with those of the other cells."""
    vectors = [
        [sum(float(channel[unit]) for unit in units) / len(units) for channel in sample]
        for units in cells(*sample.shape[1:], block_size)
    ]
    scores = []
    for i, one in enumerate(vectors):
        others = [other for j, other in enumerate(vectors) if j != i]
        cosines = [
            abs(sum(map(float.__mul__, one, other))) / (math.hypot(*one) * math.hypot(*other)) for other in others
        ]
        scores.append(sum(cosines) / len(cosines) if cosines else 0.0)
    return scores


def softmax(scores: list[float]) -> list[float]:
    """The probability of each cell to be protected; a cell that is alone has nothing to correlate with."""
    if len(scores) == 1:
        return [0.0]
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def keep_mask(x: Tensor, protect_draws: Tensor, drop_draws: Tensor, p: float, block_size: int) -> Tensor:
    """The mask (N, 1, H, W); a draw (N, cells) below its probability protects the cell, or drops it."""
    keep = torch.ones(x.shape[0], 1, *x.shape[2:], dtype=torch.float64)
    for n, sample in enumerate(x.double()):
        chances, cell_units = softmax(cell_scores(sample, block_size)), cells(*x.shape[2:], block_size)
        unprotected = [i for i, chance in enumerate(chances) if not protect_draws[n, i] < chance]
        for i in unprotected:
            if drop_draws[n, i] < p / (len(unprotected) / len(chances)):
                for row, col in cell_units[i]:
                    keep[n, 0, row, col] = 0
    return keep


def drop_chances(scores: list[float], p: float) -> list[float]:
    """The exact probability of each cell to be dropped, over all ways to protect some of them."""
    chances, total = softmax(scores), [0.0] * len(scores)
    for protected in itertools.product([False, True], repeat=len(scores)):
        way = math.prod(chance if yes else 1 - chance for chance, yes in zip(chances, protected, strict=True))
        num_unprotected = protected.count(False)
        for i, yes in enumerate(protected):
            if not yes:
                total[i] += way * min(1.0, p * len(scores) / num_unprotected)
    return total
