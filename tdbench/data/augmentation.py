"""Augmentation by torchvision.transforms.v2, on the device of the batch, from seeds of the data's own.

What acts on single images draws for each of them, from a seed that follows from the run's, the epoch, and the place
of the image in the epoch's order; MixUp and CutMix draw once for a batch. So the images are the same for one seed,
whatever the regularizer, the other augmentations, the device, or the step at which a run goes on.

These transforms draw from torch's global generator on the CPU. It is seeded for each draw and put back afterwards,
since it serves the regularizer; those of GPUs are left alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.config import AugmentConfig
from tdbench.data.seeds import derive_seed
from tdbench.errors import ConfigError

MIXING = ("mixup", "cutmix")
OF_COLOURS = ("randaugment", "trivial_augment", "color_jitter")


@contextmanager
def drawing_from(*seed: Any) -> Iterator[None]:
    """Let torch's generator on the CPU draw from the seed of a run and a purpose of it, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*seed))  # torch.manual_seed would seed the GPUs too
        yield


def check_suits(config: AugmentConfig, num_channels: int, num_classes: int, batch_size: int) -> None:
    """Check that what is configured can be done to the images, and does something to them.

    Args:
        config: Which augmentations, and how strong.
        num_channels, num_classes: Of the images.
        batch_size: Those that are mixed with each other.

    Raises:
        ConfigError: It cannot, or does not.
    """
    for key, value in config:
        if value and key in MIXING and num_classes < 2:
            raise ConfigError(
                f"augment.{key} must be 0 on images of one class, got {value}: there is nothing to mix their labels "
                "with"
            )
        if value and key in MIXING and batch_size < 2:
            raise ConfigError(
                f"augment.{key} must be 0 where a process has batches of one image, got {value}: there is no other to "
                "mix it with"
            )
        if value and key in OF_COLOURS and num_channels not in (1, 3):
            raise ConfigError(
                f"augment.{key} must be left out for images of {num_channels} channels, got {str(value).lower()}: it "
                "is for grey images and RGB"
            )


class Augmentation:
    """The random changes that are configured, beside crop, flip and Cutout's holes.

    Args:
        config: Which, and how strong.
        seed: Of the run.
        size: (H, W) of the images.
        num_classes: Of the labels.
    """

    def __init__(self, config: AugmentConfig, seed: int, size: tuple[int, int], num_classes: int) -> None:
        self._seed = seed
        self._of_pixels: dict[str, nn.Module] = {}
        self._of_images: dict[str, nn.Module] = {}
        self._of_batches: list[nn.Module] = []
        if not config.uses_torchvision:
            return
        from torchvision.transforms import v2

        if config.random_resized_crop:
            scale = (config.random_resized_crop, 1.0)
            self._of_pixels["random_resized_crop"] = v2.RandomResizedCrop(size, scale=scale, antialias=True)
        if config.randaugment:
            self._of_pixels["randaugment"] = v2.RandAugment(magnitude=config.randaugment)
        if config.trivial_augment:
            self._of_pixels["trivial_augment"] = v2.TrivialAugmentWide()
        if config.color_jitter:
            self._of_pixels["color_jitter"] = v2.ColorJitter(*(config.color_jitter,) * 3)
        if config.random_erasing:
            self._of_images["random_erasing"] = v2.RandomErasing(config.random_erasing)
        if config.mixup:
            self._of_batches.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
        if config.cutmix:
            self._of_batches.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))

    def pixels(self, pixels: Tensor, epoch: int, first: int) -> Tensor:
        """Return uint8 images (B, C, H, W), changed; `first` is the place of the first of them in the epoch's order."""
        return self._each(self._of_pixels, pixels, epoch, first)

    def images(self, images: Tensor, epoch: int, first: int) -> Tensor:
        """Return normalised images (B, C, H, W), changed, in their memory format."""
        return self._each(self._of_images, images, epoch, first)

    def mixed(self, images: Tensor, labels: Tensor, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        """Return batch `number` of an epoch, mixed, with labels (B, K) in shares of 1; unchanged where nothing mixes.

        Where both MixUp and CutMix are on, each batch has one of them, with equal probability.
        """
        if not self._of_batches:
            return images, labels
        with drawing_from(self._seed, "augment", "mixing", epoch, number):
            chosen = int(torch.randint(len(self._of_batches), ()))
            mixed, soft = self._of_batches[chosen](images, labels)
        return mixed, soft

    def _each(self, transforms: dict[str, nn.Module], batch: Tensor, epoch: int, first: int) -> Tensor:
        for name, transform in transforms.items():
            before, batch = batch, torch.empty_like(batch)
            for number, image in enumerate(before):
                with drawing_from(self._seed, "augment", name, epoch, first + number):
                    batch[number] = transform(image)
        return batch


def dominant(labels: Tensor) -> Tensor:
    """Return the class (B,) that has the largest share of each image; labels of such as are not mixed as they are."""
    return labels if labels.dim() == 1 else labels.argmax(1)
