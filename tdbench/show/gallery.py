"""What `tdbench show` shows: some images, a site's most attended maps, and what each method drops there.

Every method sees the same batch in the same network, in one training forward each, from the run's seed. `picture` draws
the picture; here are its contents, and the rows of `show.csv`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tdbench.config import RunConfig
from tdbench.config.contents import shortened
from tdbench.data.batches import TestBatches
from tdbench.data.sources import LoadedData
from tdbench.errors import ConfigError
from tdbench.models.tracing import INPUT
from tdbench.show.class_activation import grad_cam
from tdbench.show.drops import Drops, observe_drops
from tdbench.training.setup import Setup
from tdbench.training.trained import TrainedRun
from tdbench.user_code import short_name

DEFAULT_IMAGES, MOST_IMAGES = 4, 32
MOST_COLUMNS, MOST_MAPS = 14, 4  # side by side; the columns are those of all methods

ROW_COLUMNS = (
    "image",
    "class",
    "predicted",
    "method",
    "site",
    "dropped_pct",
    "rank",
    "channel",
    "score",
    "map_dropped_pct",
)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The channels of each image at a site, the most attended first."""

    channels: Tensor  # (N, C) int64
    scores: Tensor  # (N, C), of the channels in that order
    ranked_by: str


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images and what each method drops in them.

    Attributes:
        config: The run of the first method; network, data and seed are the same for all.
        images: (N, 1 or 3, H, W) in [0, 1].
        numbers: Position of each image in the test set.
        classes: Class name of each.
        batch_size: Images in the batch that went through the network, of which these are the first.
        drops: What each method dropped.
        weights: Where the trained weights come from; None: the network is untrained.
        activation: Class-activation maps (N, h, w) in [0, 1] of a trained network.
        predicted: Name of the class that a trained network predicts for each image.
        changed_images: How the images differ from those that the network was trained on, in words.
    """

    config: RunConfig
    images: Tensor
    numbers: list[int]
    classes: list[str]
    batch_size: int
    drops: list[Drops]
    weights: str | None = None
    activation: Tensor | None = None
    predicted: list[str] | None = None
    changed_images: Sequence[str] = ()

    def on_image(self) -> list[Drops]:
        """Return the methods that cut holes into the images themselves."""
        return [drops for drops in self.drops if is_on_image(drops)]

    def by_site(self) -> dict[str, list[Drops]]:
        """Return all others by their site, in the order of the methods."""
        sites: dict[str, list[Drops]] = {}
        for drops in self.drops:
            if not is_on_image(drops):
                sites.setdefault(drops.site, []).append(drops)
        return sites

    def ranking(self, site: str) -> Ranking:
        """Return the ranking at a site, by the first method there that has an attention, else by the maps' means."""
        here = self.by_site()[site]
        by = next((drops for drops in here if drops.has_attention), here[0])
        scores, channels = by.scores.sort(dim=1, descending=True, stable=True)
        return Ranking(channels, scores, by.ranked_by)

    def num_maps(self) -> int:
        """Return how many maps of each site are shown, so that all columns fit side by side."""
        taken = 1 + (self.activation is not None) + len(self.on_image())
        blocks = sum(1 + len(here) for here in self.by_site().values())  # a site's maps, and those of each method
        return max(1, min(MOST_MAPS, (MOST_COLUMNS - taken) // blocks)) if blocks else 0

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per image, method and map that is shown, with the columns of `show.csv`."""
        return [
            {
                "image": self.numbers[sample],
                "class": self.classes[sample],
                "predicted": self.predicted[sample] if self.predicted is not None else None,
                "method": drops.method,
                "site": drops.site,
                "dropped_pct": drops.dropped_pct,
                **row,
            }
            for drops in self.drops
            for sample in range(len(self.images))
            for row in self._map_rows(drops, sample)
        ]

    def summary(self) -> dict[str, Any]:
        """Return what is shown, as plain types: the network, the sites, the images, the methods, and `rows`."""
        predicted: Sequence[str | None] = self.predicted or [None] * len(self.classes)
        return {
            "model": self.config.model.name,
            "weights": self.weights or "untrained network",
            "data": short_name(self.config.data.name),
            "seed": self.config.seed,
            "batch_size": self.batch_size,
            "sites": [
                {"site": site, "map": list(here[0].maps.shape[1:]), "ranked_by": self.ranking(site).ranked_by}
                for site, here in self.by_site().items()
            ],
            "images": [
                {"image": number, "class": name, "predicted": guess}
                for number, name, guess in zip(self.numbers, self.classes, predicted, strict=True)
            ],
            "methods": [
                {"method": drops.method, "site": drops.site, "dropped_pct": drops.dropped_pct} for drops in self.drops
            ],
            "maps": self.rows(),
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Return notes on other images, on methods that dropped nothing and on tied scores, in sentences."""
        notes = [f"the network was trained on other images: {shortened(self.changed_images)}"] * bool(
            self.changed_images
        )
        notes += [
            f"{drops.method} dropped nothing: it is off, or by chance (another --seed draws again)"
            for drops in self.drops
            if drops.dropped_pct == 0 and drops.config.regularizer.knobs()
        ]
        for site in self.by_site():
            ranking = self.ranking(site)
            tied = (ranking.scores[:, 0] == ranking.scores[:, -1]).tolist()
            numbers = ", ".join(str(number) for number, tie in zip(self.numbers, tied, strict=True) if tie)
            if numbers and ranking.channels.shape[1] > 1:
                alike = f"scores all channels at {site} alike in image {numbers}"
                notes.append(f"{ranking.ranked_by}, {alike}; the lowest channels come first")
        return notes

    def _map_rows(self, drops: Drops, sample: int) -> list[dict[str, Any]]:
        if is_on_image(drops):
            share = float(drops.dropped[sample].double().mean())
            return [{"rank": None, "channel": None, "score": None, "map_dropped_pct": 100 * share}]
        ranking = self.ranking(drops.site)
        shares = drops.dropped[sample].double().mean(dim=(1, 2))
        order = ranking.channels[sample].tolist()[: self.num_maps()]
        return [
            {
                "rank": rank,
                "channel": channel,
                "score": float(ranking.scores[sample, rank - 1]),
                "map_dropped_pct": 100 * float(shares[channel]),
            }
            for rank, channel in enumerate(order, 1)
        ]


def is_on_image(drops: Drops) -> bool:
    """Return whether a method drops the same pixels in all channels of the images, and so needs no maps."""
    return drops.site == INPUT and drops.is_shared


def collect(configs: Sequence[RunConfig], num_images: int | None = None, trained: TrainedRun | None = None) -> Gallery:
    """Build the network once and observe what each run's method drops in it.

    Seeds torch's global generator, sets its threads and its determinism.

    Args:
        configs: A run per method, which differ by their regularizer only.
        num_images: Number of images, of different classes as far as possible; None: 4, or all if there are fewer.
        trained: The source of trained weights, which adds class-activation maps; None: initial weights.

    Raises:
        TdbenchError: A setting, the data, a site or the weights are unsuitable.
    """
    if num_images is not None and not 1 <= num_images <= MOST_IMAGES:
        raise ConfigError(f"--images must be between 1 and {MOST_IMAGES}, got {num_images}")
    config = configs[0]
    if trained is not None:
        trained.check_fits(config)
    setup = Setup(config)
    data, model, hardware = setup.data, setup.model, setup.hardware
    if num_images is not None and num_images > len(data.test):
        raise ConfigError(f"--images must be at most {len(data.test)}, the number of test images, got {num_images}")
    num_images = num_images or min(DEFAULT_IMAGES, len(data.test))
    if trained is not None:
        trained.load_weights(model)
    numbers = alternating_classes(data.test.labels)[: max(num_images, config.training.batch_size)]
    portion = replace(data, test=data.test.select(numbers))
    batches = TestBatches(portion, config, hardware.device, hardware.memory_format)
    batch = torch.cat([images for images, _, _ in batches])[: len(numbers)]
    activation = predicted = None
    if trained is not None:
        activation, classes = grad_cam(model, batch[:num_images])
        activation, predicted = activation.float().cpu(), [data.classes[label] for label in classes.tolist()]
    observed: list[Drops] = []
    for one in configs:
        site = next((drops.site for drops in observed if drops.config.regularizer.placement == "feature_map"), None)
        observed.append(observe_drops(setup, at_site(one, site), batch, num_images, trained))
    return Gallery(
        config=config,
        images=unnormalised(batch[:num_images].cpu(), data),
        numbers=numbers[:num_images].tolist(),
        classes=[data.classes[label] for label in portion.test.labels[:num_images].tolist()],
        batch_size=len(batch),
        drops=observed,
        weights=None if trained is None else trained.describe(),
        activation=activation,
        predicted=predicted,
        changed_images=[] if trained is None else trained.changed_images(config),
    )


def at_site(config: RunConfig, site: str | None) -> RunConfig:
    """Return a run whose method, where no site is named, stands where another has been seen, to be compared there."""
    regularizer = config.regularizer
    if site is None or regularizer.sites is not None or regularizer.placement != "feature_map":
        return config
    return config.model_copy(update={"regularizer": regularizer.model_copy(update={"sites": (site,)})})


def alternating_classes(labels: Tensor) -> Tensor:
    """Return the order of images (N,) that takes the first of each class, then the second of each, and so on."""
    turn = torch.empty_like(labels)
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        turn[members] = torch.arange(len(members))
    return (turn * (int(labels.max()) + 1) + labels).argsort()


def unnormalised(images: Tensor, data: LoadedData) -> Tensor:
    """Map normalised images (N, C, H, W) back to [0, 1]."""
    mean, std = torch.tensor(data.mean).view(1, -1, 1, 1), torch.tensor(data.std).view(1, -1, 1, 1)
    return (images.float() * std + mean).clamp(0, 1)
