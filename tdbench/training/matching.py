"""Makes methods comparable: solves a method's strength knob for the share of units that it actually drops.

A nominal rate means different strengths in different methods, maps and networks. Here the run's own network, untrained,
processes a few training batches at each candidate value, and the realised share decides. The batches are spread over
the schedule, so that the mean over the training is matched, which is what a run reports.
"""

from typing import Any

import torch

from tdbench.config import RunConfig
from tdbench.data.sources import LoadedData
from tdbench.errors import ConfigError
from tdbench.training.setup import Setup

NUM_BATCHES = 8
NUM_HALVINGS = 14
CLOSE_ENOUGH = 0.002  # relative to the target share
DIGITS = 4  # significant ones, of the solved value


def solve_match(config: RunConfig, data: LoadedData | None = None) -> RunConfig:
    """Return the configuration with its strength knob solved for `regularizer.match`, or as it is where that is null.

    Args:
        config: The run.
        data: Its data set, if already loaded.

    Raises:
        ConfigError: No value of the knob gives the share; the message names the range that is possible.
    """
    method, target = config.regularizer, config.regularizer.match
    if target is None:
        return config
    assert method.strength_knob is not None, "the configuration refuses to match a method without one"
    calibration = Calibration(config, data)
    low, high = method.strength_range()
    at_low = 0.0 if method.share_is_proportional else calibration.dropped_pct(low)
    (least, weak), (most, strong) = sorted([(at_low, low), (calibration.dropped_pct(high), high)])
    if not least <= target <= most:
        raise ConfigError(
            f"regularizer.match must be between {least:.3g} and {most:.3g} % here, what {method.name} drops at "
            f"{method.strength_knob} = {weak:g} and {strong:g}, got {target:g} %"
        )
    if method.share_is_proportional:
        return with_knob(config, calibration.rounded(high * target / most))
    rising = strong == high
    for _ in range(NUM_HALVINGS):
        middle = calibration.rounded((low + high) / 2)
        share = calibration.dropped_pct(middle)
        if abs(share - target) <= CLOSE_ENOUGH * target or middle in (low, high):
            break
        if (share < target) == rising:
            low = middle
        else:
            high = middle
    # Where the share changes in steps, of whole channels or pixels, the nearest one is taken.
    return with_knob(config, min(calibration.seen, key=lambda value: abs(calibration.seen[value] - target)))


class Calibration:
    """Measures what a method drops, in per cent, at values of its strength knob.

    Attributes:
        seen: Knob value to dropped share in per cent, for all values measured.
    """

    def __init__(self, config: RunConfig, data: LoadedData | None = None) -> None:
        self.setup, self.method = Setup(config, data), config.regularizer
        batches = self.setup.train_batches()
        self.images = [images for images, _ in batches.epoch(1, 0, min(NUM_BATCHES, len(batches)))]
        self.seen: dict[float, float] = {}

    def rounded(self, value: float) -> float:
        """Return `value` in the knob's type: the nearest int, or a float of DIGITS significant digits."""
        if isinstance(getattr(self.method, str(self.method.strength_knob)), int):
            return round(value)
        return float(f"{value:.{DIGITS}g}")

    @torch.no_grad()
    def dropped_pct(self, value: float) -> float:
        """Return the share dropped at a value of the knob; all values use the same random numbers."""
        if value not in self.seen:
            setup = self.setup
            insertion = setup.insert(with_knob(setup.config, value))
            insertion.meter(setup.hardware.device)
            setup.model.train()
            for number, images in enumerate(self.images):
                insertion.set_progress((number + 0.5) / len(self.images))
                with setup.hardware.autocast():
                    setup.model(images)
            counts = insertion.read_meter().values()
            insertion.remove()
            self.seen[value] = 100 * sum(dropped for dropped, _ in counts) / sum(units for _, units in counts)
        return self.seen[value]


def with_knob(config: RunConfig, value: Any) -> RunConfig:
    """Return the configuration with another value of its method's strength knob."""
    method = config.regularizer
    solved = method.model_dump() | {str(method.strength_knob): value}
    return config.model_copy(update={"regularizer": type(method).model_validate(solved)})
