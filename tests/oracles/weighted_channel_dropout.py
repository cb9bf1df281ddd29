"""The exact chances of weighted random selection without replacement, after Hou & Wang (AAAI 2019). Check it by eye."""

import itertools
import math

import torch
from torch import Tensor


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


def drop(x: Tensor, uniforms: list[float], coins: list[float], ratio: float, keep: float, rescale: str) -> Tensor:
    """One sample (C, H, W): the channels with the largest u^(1/score) are selected, and each is kept by its coin."""
    scores = [float(channel.mean()) for channel in x]
    keys = [u ** (1 / score) for u, score in zip(uniforms, scores, strict=True)]
    num_selected = max(1, math.floor(ratio * len(scores) + 1e-9))
    selected = sorted(range(len(scores)), key=lambda channel: -keys[channel])[:num_selected]
    kept = [channel for channel in selected if coins[channel] >= 1 - keep]
    counted = selected if rescale == "selected" else kept
    out = torch.zeros_like(x)
    for channel in kept:
        out[channel] = x[channel] * sum(scores) / sum(scores[other] for other in counted)
    return out
