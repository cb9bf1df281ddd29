"""Which images train, which choose and which judge: a part of the training images, a held-out part, new draws."""

import torch
from torch import Tensor

from tdbench.config.data_sets import DATA_SETS, find_data_set
from tdbench.data.images import ImageSet, StreamedImages
from tdbench.errors import ConfigError


def check_resampled(name: str) -> None:
    """Check that the test images of a data set may be drawn anew.

    Raises:
        ConfigError: It has test images of its own, on which its published figures are.
    """
    if not find_data_set(name).may_be_resampled:
        names = ", ".join(one for one, source in DATA_SETS.items() if source.may_be_resampled)
        raise ConfigError(f"data.resample must be false for {name}, whose test images are given; it is for {names}")


def resampled(train: ImageSet, test: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Return training and test images drawn anew from all of them, class by class as many as before.

    Raises:
        ConfigError: The one part is in memory and the other is not.
    """
    every = joined(train, test)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in every.labels.unique():
        members = torch.nonzero(every.labels == label).flatten()
        num_test = int((test.labels == label).sum())
        chosen.append(members[torch.randperm(len(members), generator=generator)[:num_test]])
    is_test = torch.zeros(len(every), dtype=torch.bool).index_fill_(0, torch.cat(chosen), True)
    return every.select(torch.nonzero(~is_test).flatten()), every.select(torch.nonzero(is_test).flatten())


def joined(one: ImageSet, other: ImageSet) -> ImageSet:
    """Return the images of two sets in one.

    Raises:
        ConfigError: The one is in memory and the other is not.
    """
    labels, left_out = torch.cat([one.labels, other.labels]), {**other.left_out, **one.left_out}
    if isinstance(one.images, Tensor) and isinstance(other.images, Tensor):
        return ImageSet(torch.cat([one.images, other.images]), labels, left_out)
    if isinstance(one.images, StreamedImages) and type(one.images) is type(other.images):
        return ImageSet(one.images.joined(other.images), labels, left_out)
    raise ConfigError("data.resample needs all images in memory, or none: give data.resident_mib")


def held_out(train: ImageSet, fraction: float, split_seed: int, classes: tuple[str, ...]) -> tuple[ImageSet, ImageSet]:
    """Return the training images and those that are held out of them, a `fraction` of each class.

    The same images are held out whatever the seed of the run.

    Raises:
        ConfigError: A class would be left without a training image.
    """
    chosen = balanced_subset(train.labels, fraction, split_seed)
    is_held = torch.zeros(len(train), dtype=torch.bool).index_fill_(0, chosen, True)
    counts = torch.bincount(train.labels[~is_held], minlength=len(classes))
    for label in train.labels.unique().tolist():
        if counts[label] == 0:
            raise ConfigError(
                f"data.valid_fraction {fraction:g} leaves the class {classes[label]!r} without a training image: "
                f"it has {int((train.labels == label).sum())}"
            )
    return train.select(torch.nonzero(~is_held).flatten()), train.select(chosen)


def balanced_subset(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return ascending indices of a random `fraction` of each class, at least one image of each."""
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        num_kept = max(1, round(fraction * len(members)))
        kept.append(members[torch.randperm(len(members), generator=generator)[:num_kept]])
    return torch.cat(kept).sort().values
