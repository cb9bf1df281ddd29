"""DropBlock in plain loops, after Ghiasi, Lin & Le (arXiv 1810.12890), algorithm 1. Check it by eye."""

import torch
from torch import Tensor


def block(height: int, width: int, block_size: int) -> tuple[int, int]:
    """A block larger than the map is cut to it."""
    return min(block_size, height), min(block_size, width)


def seed_rate(p: float, height: int, width: int, block_size: int) -> float:
    """γ = p / (h·w) · H·W / ((H - h + 1)·(W - w + 1)), at most 1."""
    tall, wide = block(height, width, block_size)
    return min(1.0, p / (tall * wide) * (height * width) / ((height - tall + 1) * (width - wide + 1)))


def places(height: int, width: int, block_size: int) -> list[tuple[int, int]]:
    """Where the first unit of a block may lie, so that the whole block lies in the map."""
    tall, wide = block(height, width, block_size)
    return [(row, col) for row in range(height - tall + 1) for col in range(width - wide + 1)]


def keep_mask(seeds: Tensor, height: int, width: int, block_size: int) -> Tensor:
    """The mask (N, C, H, W), 0 in the block of each seed; `seeds` (N, C, rows, cols) is true at its first unit."""
    tall, wide = block(height, width, block_size)
    keep = torch.ones(*seeds.shape[:2], height, width, dtype=torch.float64)
    for n, c, row, col in seeds.nonzero().tolist():
        for i in range(tall):
            for j in range(wide):
                keep[n, c, row + i, col + j] = 0
    return keep


def drop_chances(p: float, height: int, width: int, block_size: int) -> Tensor:
    """The probability (H, W) of a unit to be dropped: that one of the blocks which hold it has a seed."""
    tall, wide = block(height, width, block_size)
    rate = seed_rate(p, height, width, block_size)
    chances = torch.zeros(height, width, dtype=torch.float64)
    for row in range(height):
        for col in range(width):
            num_blocks = 0
            for first_row, first_col in places(height, width, block_size):
                if first_row <= row < first_row + tall and first_col <= col < first_col + wide:
                    num_blocks += 1
            chances[row, col] = 1 - (1 - rate) ** num_blocks
    return chances


def is_union_of_blocks(dropped: Tensor, block_size: int) -> bool:
    """Whether each dropped unit of one map (H, W) lies in a block that is dropped whole."""
    height, width = dropped.shape
    tall, wide = block(height, width, block_size)
    covered = torch.zeros_like(dropped)
    for row, col in places(height, width, block_size):
        if dropped[row : row + tall, col : col + wide].all():
            covered[row : row + tall, col : col + wide] = True
    return torch.equal(covered, dropped)
