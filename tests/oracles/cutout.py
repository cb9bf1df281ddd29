"""Cutout in plain loops, after DeVries & Taylor (arXiv 1708.04552) and its public code. Check it by eye."""


def hole(height: int, width: int, centre: tuple[int, int], size: int) -> set[tuple[int, int]]:
    """The positions of the image from L // 2 before the centre on, L in each direction: what is outside is cut off."""
    positions = set()
    for row in range(centre[0] - size // 2, centre[0] - size // 2 + size):
        for col in range(centre[1] - size // 2, centre[1] - size // 2 + size):
            if 0 <= row < height and 0 <= col < width:
                positions.add((row, col))
    return positions


def areas(side: int, size: int) -> list[float]:
    """The masked share of a square image for every centre, all of which are equally likely."""
    return [len(hole(side, side, (row, col), size)) / side**2 for row in range(side) for col in range(side)]
