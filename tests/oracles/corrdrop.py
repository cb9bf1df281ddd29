"""Spatial CorrDrop in plain loops, after the public code of Zeng et al. (Pattern Recognition 2021). Check it by eye.

That code is for square maps; here each side goes by its rule. It protects the only cell of a map of one always; here
such a cell is never protected.
"""

import math

import torch
from torch import Tensor


def side_of_cells(side: int, block_size: int) -> int:
    return block_size if block_size <= side else max(1, side - 1)


def padding_of(side: int, size: int) -> int:
    return 0 if side % size == 0 else math.ceil((size - side % size) / 2)


def number_of_cells(side: int, size: int) -> int:
    return math.floor((side + 2 * padding_of(side, size) - size) / size) + 1


def cell_vectors(sample: Tensor, block_size: int) -> list[list[float]]:
    """The sum of each channel over each cell of the zero-padded map, row by row of cells; cosines know no scale."""
    height, width = sample.shape[1:]
    down, across = side_of_cells(height, block_size), side_of_cells(width, block_size)
    vectors = []
    for cell_row in range(number_of_cells(height, down)):
        for cell_col in range(number_of_cells(width, across)):
            rows = [cell_row * down + i - padding_of(height, down) for i in range(down)]
            cols = [cell_col * across + j - padding_of(width, across) for j in range(across)]
            units = [(row, col) for row in rows for col in cols if 0 <= row < height and 0 <= col < width]
            vectors.append([sum(float(channel[unit]) for unit in units) for channel in sample])
    return vectors


def cell_scores(sample: Tensor, block_size: int) -> list[float]:
    """The sum of a cell's |cosines| with the other cells, over the number of all cells."""
    vectors = cell_vectors(sample, block_size)
    scores = []
    for i, one in enumerate(vectors):
        total = 0.0
        for j, other in enumerate(vectors):
            length = math.hypot(*one) * math.hypot(*other)
            if i != j and length > 0:
                total += abs(sum(map(float.__mul__, one, other))) / length
        scores.append(total / len(vectors))
    return scores


def softmax(scores: list[float]) -> list[float]:
    """The probability of each cell to be protected; a cell that is alone has nothing to correlate with."""
    if len(scores) == 1:
        return [0.0]
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def gamma(height: int, width: int, p: float, block_size: int) -> float:
    """The chance of a cell to be dropped before what is protected is made up for; it carries 1 / block_size²."""
    down, across = side_of_cells(height, block_size), side_of_cells(width, block_size)
    num_cells = number_of_cells(height, down) * number_of_cells(width, across)
    return p / (down * across) * (height * width / num_cells)


def keep_mask(x: Tensor, protect_draws: Tensor, drop_draws: Tensor, p: float, block_size: int) -> Tensor:
    """The mask (N, 1, H, W); a draw (N, cells) below its probability protects the cell, or drops it."""
    num_samples, _, height, width = x.shape
    down, across = side_of_cells(height, block_size), side_of_cells(width, block_size)
    rows, cols = number_of_cells(height, down), number_of_cells(width, across)
    unprotected = [
        [not protect_draws[n, i] < chance for i, chance in enumerate(softmax(cell_scores(sample, block_size)))]
        for n, sample in enumerate(x.double())
    ]
    share = sum(map(sum, unprotected)) / (num_samples * rows * cols)  # of the whole batch
    keep = torch.ones(num_samples, 1, height, width, dtype=torch.float64)
    for n in range(num_samples):
        for row in range(height):
            for col in range(width):
                # The spread mask is cut to the map in its middle.
                cell_row = (row + (rows * down - height) // 2) // down
                cell_col = (col + (cols * across - width) // 2) // across
                i = cell_row * cols + cell_col
                if unprotected[n][i] and drop_draws[n, i] < min(1.0, gamma(height, width, p, block_size) / share):
                    keep[n, 0, row, col] = 0
    return keep
