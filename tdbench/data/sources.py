"""Data sets as uint8 images (N, C, H, W) with labels, class names and statistics.

`digits` is scikit-learn's copy of the UCI digits; the published sets come through torchvision, which downloads them on
first use and verifies their checksums; `folder` is any root with train/ and test/ of class folders. Whatever is wrong
with the files ends in one DataError that names the file, or the place and what to do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.config import DataConfig
from tdbench.data.folder import read_folder
from tdbench.data.images import FolderImages, ImageSet, decoded
from tdbench.data.published import read_cifar, read_fashion_mnist, read_stl10, read_svhn
from tdbench.errors import ConfigError, unknown

STREAMED_SAMPLE = 2000  # images of a streamed set from which its statistics are taken


@dataclass(frozen=True)
class Source:
    """What is known about a data set before it is read; `flip` says whether a mirrored image keeps its class."""

    name: str
    title: str
    num_train: int | None
    num_test: int | None
    num_classes: int | None
    image: tuple[int, int, int] | None  # channels, height, width as the network sees them
    flip: bool
    provenance: str
    read: Callable[[DataConfig], tuple[ImageSet, ImageSet, tuple[str, ...]]]  # training set, test set, class names


@dataclass(frozen=True, eq=False)
class LoadedData:
    """A data set in memory or ready to stream; mean and deviation per channel are of images scaled to [0, 1]."""

    source: Source
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        images = self.train.images
        if isinstance(images, FolderImages):
            return 3, images.image_size, images.image_size
        return images.shape[1], images.shape[2], images.shape[3]

    @property
    def num_classes(self) -> int:
        """Number of classes, of which the test set may lack some."""
        return len(self.classes)


def load_data(config: DataConfig, seed: int) -> LoadedData:
    """Read a data set, downloading it into `config.root` where it is not there.

    Args:
        config: Which data set, where, and how much of it.
        seed: Chooses the images that `train_fraction` keeps, and nothing else.

    Raises:
        ConfigError: No data set has this name.
        DataError: Its files are missing, incomplete, corrupt, or cannot be downloaded.
    """
    source = find_source(config.name)
    train, test, classes = source.read(config)
    # The statistics are of the full training set, so that runs on a part of it see the same pixels.
    mean, std = statistics(portions(train.images, config.num_workers))
    if config.train_fraction < 1:
        train = train.select(balanced_subset(train.labels, config.train_fraction, seed))
    return LoadedData(source, train, test, classes, mean, std)


def find_source(name: str) -> Source:
    """Return the data set called `name`.

    Raises:
        ConfigError: There is none; the nearest name is given.
    """
    if name not in SOURCES:
        raise ConfigError(unknown("data set", name, SOURCES))
    return SOURCES[name]


def balanced_subset(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return ascending indices of a random `fraction` of each class, at least one image of each."""
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        num_kept = max(1, round(fraction * len(members)))
        kept.append(members[torch.randperm(len(members), generator=generator)[:num_kept]])
    return torch.cat(kept).sort().values


def statistics(images: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of portions of uint8 images (n, C, H, W), scaled to [0, 1].

    Both are exact, from a histogram of the 256 values. The deviation of a constant channel is given as 1.
    """
    counts = sum(
        torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in portion.unbind(1)])
        for portion in images
    )
    assert isinstance(counts, Tensor), "a data set without images does not get here"
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = (share * (values - mean[:, None]) ** 2).sum(dim=1).sqrt()
    constant = (counts > 0).sum(dim=1) == 1
    return tuple(mean.tolist()), tuple(std.masked_fill(constant, 1.0).tolist())


def portions(images: Tensor | FolderImages, num_workers: int) -> Iterable[Tensor]:
    """Return all images in portions, or an evenly spaced sample of those that are not in memory."""
    if isinstance(images, Tensor):
        return images.split(4096)
    num_sampled = min(len(images), STREAMED_SAMPLE)
    return decoded(images.select(i * len(images) // num_sampled for i in range(num_sampled)), num_workers)


def read_digits(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read scikit-learn's 1,797 digits; 360 of them, stratified and always the same, are the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).mul(255 / 16).round()
    # Whole numbers times eighths are exact in floating point, so that every machine rounds alike.
    resized = F.interpolate(pixels.unsqueeze(1), size=(32, 32), mode="bilinear", align_corners=False)
    every = ImageSet(resized.round().to(torch.uint8), torch.from_numpy(digits.target).long())
    split = train_test_split(torch.arange(len(every)).numpy(), test_size=360, random_state=0, stratify=digits.target)
    train, test = (every.select(torch.from_numpy(part).sort().values) for part in split)
    return train, test, tuple(str(name) for name in digits.target_names)


SOURCES = {
    source.name: source
    for source in (
        Source(
            *("digits", "Digits", 1437, 360, 10, (1, 32, 32)),
            flip=False,
            provenance="in scikit-learn (UCI optical digits, 8×8, resized)",
            read=read_digits,
        ),
        Source(
            *("fashion_mnist", "Fashion-MNIST", 60000, 10000, 10, (1, 32, 32)),
            flip=True,
            provenance="download, 30 MB (github.com/zalandoresearch/fashion-mnist, zero-padded from 28×28)",
            read=read_fashion_mnist,
        ),
        Source(
            *("cifar10", "CIFAR-10", 50000, 10000, 10, (3, 32, 32)),
            flip=True,
            provenance="download, 170 MB (www.cs.toronto.edu/~kriz/cifar.html)",
            read=partial(read_cifar, class_name="CIFAR10"),
        ),
        Source(
            *("cifar100", "CIFAR-100", 50000, 10000, 100, (3, 32, 32)),
            flip=True,
            provenance="download, 169 MB (www.cs.toronto.edu/~kriz/cifar.html)",
            read=partial(read_cifar, class_name="CIFAR100"),
        ),
        Source(
            *("svhn", "SVHN", 73257, 26032, 10, (3, 32, 32)),
            flip=False,
            provenance="download, 246 MB (ufldl.stanford.edu/housenumbers, without the extra images)",
            read=read_svhn,
        ),
        Source(
            *("stl10", "STL-10", 5000, 8000, 10, (3, 96, 96)),
            flip=True,
            provenance="download, 2.6 GB (cs.stanford.edu/~acoates/stl10, the labelled images)",
            read=read_stl10,
        ),
        Source(
            *("folder", "Image folder", None, None, None, None),
            flip=True,
            provenance="data.root with train/ and test/, each with a folder per class",
            read=read_folder,
        ),
    )
}
