"""Data sets as uint8 images (N, C, H, W) with labels, class names and statistics.

`config.data_sets` declares them, and names the reader of each: `digits` is scikit-learn's copy of the UCI digits; the
published sets come through torchvision, which downloads them on first use and verifies their checksums; `folder` is any
root with train/ and test/ of class folders. Any problem with the files raises one DataError, which names the file or
folder and the remedy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

from tdbench.config import DataConfig
from tdbench.config.data_sets import DataSet, find_data_set
from tdbench.data.images import ImageSet, StreamedImages
from tdbench.data.splits import balanced_subset, check_resampled, held_out, resampled

STREAMED_SAMPLE = 2000  # images of a streamed set from which its statistics are taken
SAMPLE_BATCH = 16


@dataclass(frozen=True, eq=False)
class LoadedData:
    """A data set in memory or ready to stream; mean and deviation per channel are of images scaled to [0, 1]."""

    source: DataSet
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    valid: ImageSet | None = None  # held out of the training images
    input_size: int | None = None  # side in pixels to which batches are resized for the network; None: they are not

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image as the network gets it."""
        num_channels, height, width = self.image_shape
        return num_channels, self.input_size or height, self.input_size or width

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        images = self.train.images
        if isinstance(images, StreamedImages):
            return 3, images.image_size, images.image_size
        return images.shape[1], images.shape[2], images.shape[3]

    @property
    def num_classes(self) -> int:
        """Number of classes, of which the test set may lack some."""
        return len(self.classes)


def load_data(config: DataConfig, seed: int) -> LoadedData:
    """Read a data set, downloading it into `config.root` if it is missing.

    Args:
        config: Which data set, where, and how much of it.
        seed: Chooses the images that `train_fraction` keeps, those that `resample` draws, and nothing else.

    Raises:
        ConfigError: No data set has this name, or its test images are given and may not be drawn anew.
        DataError: Its files are missing, incomplete, corrupt, or cannot be downloaded.
    """
    source = find_data_set(config.name)
    if config.resample:
        check_resampled(config.name)
    module, _, function = source.reader.partition(":")
    train, test, classes = getattr(import_module(f"{__package__}.{module}"), function)(config)
    if config.resample:
        train, test = resampled(train, test, seed)
    if not config.test:
        test = test.select(torch.empty(0, dtype=torch.int64))
    # The statistics are of the full training set, so that runs on a part of it see the same pixels.
    mean, std = statistics(chunks(train.images, config.num_workers))
    valid = None
    if config.valid_fraction > 0:
        train, valid = held_out(train, config.valid_fraction, config.split_seed, classes)
    if config.train_fraction < 1:
        train = train.select(balanced_subset(train.labels, config.train_fraction, seed))
    return LoadedData(source, train, test, classes, mean, std, valid)


def statistics(images: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of chunks of uint8 images (n, C, H, W), scaled to [0, 1].

    Both are exact, from a histogram of the 256 values. The deviation of a constant channel is given as 1.
    """
    counts = torch.from_numpy(sum(histograms(chunk.numpy()) for chunk in images))
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = (share * (values - mean[:, None]) ** 2).sum(dim=1).sqrt()
    constant = (counts > 0).sum(dim=1) == 1
    return tuple(mean.tolist()), tuple(std.masked_fill(constant, 1.0).tolist())


def histograms(images: np.ndarray) -> np.ndarray:
    """Return (C, 256): how often each value is in each channel of uint8 images (n, C, H, W)."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)])


def chunks(images: Tensor | StreamedImages, num_workers: int) -> Iterable[Tensor]:
    """Return all images in chunks; of a streamed set, an evenly spaced sample."""
    if isinstance(images, Tensor):
        return images.split(4096)
    num_sampled = min(len(images), STREAMED_SAMPLE)
    return images.select(i * len(images) // num_sampled for i in range(num_sampled)).batches(num_workers, SAMPLE_BATCH)
