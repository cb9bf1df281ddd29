"""The exact chances of weighted random selection without replacement, after Hou & Wang (AAAI 2019). Check it by eye."""

import itertools


def chance_of_order(scores: list[float], order: tuple[int, ...]) -> float:
    """The probability that channels are picked in this order, each in proportion to the scores of those still there."""
    chance, left = 1.0, sum(scores)
    for channel in order:
        chance *= scores[channel] / left
        left -= scores[channel]
    return chance


def chances_of_sets(scores: list[float], num_selected: int) -> dict[tuple[int, ...], float]:
    """The probability of each set of channels to be the selected ones, over all orders to pick them in."""
    chances = {}
    for chosen in itertools.combinations(range(len(scores)), num_selected):
        chances[chosen] = sum(chance_of_order(scores, order) for order in itertools.permutations(chosen))
    return chances


def scale(scores: list[float], kept: list[bool]) -> float:
    """The sum of all scores over the sum of the kept ones."""
    return sum(scores) / sum(score for score, yes in zip(scores, kept, strict=True) if yes)
