"""Data sets as uint8 images (N, C, H, W) with labels, class names and statistics.

`digits` is scikit-learn's copy of the UCI digits; the published sets come through torchvision, which downloads them on
first use and verifies their checksums; `folder` is any root with train/ and test/ of class folders. Whatever is wrong
with the files ends in one DataError that names the file, or the place and what to do.
"""

import contextlib
import gzip
import math
import os
import shutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tdbench.config import DataConfig
from tdbench.errors import ConfigError, DataError, unknown

STREAMED_SAMPLE = 2000  # images of a streamed set from which its statistics are taken
LOCK = ".tdbench-download.lock"
IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class BrokenImage(DataError):
    """An image file that cannot be decoded; its message is the same from a DataLoader's worker process."""

    def __init__(self, message: str) -> None:
        # A worker's exception is built again from its printed traceback, which ends with the type and the message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class FolderImages(Dataset[Tensor]):
    """Image files, decoded on demand to uint8 (3, image_size, image_size).

    The shorter side is resized to `image_size`, antialiased, and the longer one cropped at its centre.

    Raises:
        BrokenImage: On access to a file that cannot be decoded.
    """

    def __init__(self, paths: list[str], image_size: int) -> None:
        self.paths = paths
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image
        from torchvision.transforms import functional

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                resized = functional.resize(image.convert("RGB"), [self.image_size], antialias=True)
        except Exception as error:  # Pillow's decoders raise whatever the bytes lead them to
            raise BrokenImage(f"image {path} cannot be decoded: {reason(error)}; repair or remove it") from error
        return functional.pil_to_tensor(functional.center_crop(resized, [self.image_size, self.image_size]))

    def select(self, indices: Iterable[int]) -> "FolderImages":
        """Return the images at `indices`, still on disk."""
        return FolderImages([self.paths[index] for index in indices], self.image_size)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes: a uint8 tensor (N, C, H, W) or files decoded on demand, with int64 labels (N,)."""

    images: Tensor | FolderImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSet":
        """Return the items at `indices` (int64), in that order."""
        if isinstance(self.images, FolderImages):
            return ImageSet(self.images.select(indices.tolist()), self.labels[indices])
        return ImageSet(self.images[indices], self.labels[indices])


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


def decoded(images: FolderImages, num_workers: int) -> Iterator[Tensor]:
    """Yield the images of files in order, in batches, decoded by up to `num_workers` processes."""
    batch_size = 16
    try:
        # Its own generator, because a DataLoader draws from torch's global one otherwise, even in order.
        yield from DataLoader(
            images,
            batch_size=batch_size,
            num_workers=min(num_workers, math.ceil(len(images) / batch_size)),
            generator=torch.Generator(),
        )
    except BrokenImage as error:
        # Torch's frames and the exception hold each other; left to the garbage collector, each worker costs 5 s.
        traceback.clear_frames(error.__traceback__)
        raise


def reason(error: BaseException) -> str:
    """Return what went wrong in a few words: the last line of what a library says."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def open_root(config: DataConfig) -> Path:
    """Return the folder of the data set's files, which may not exist yet.

    Raises:
        DataError: It is a file, or cannot be read.
    """
    root = Path(os.path.expanduser(config.root))  # Path.expanduser raises where there is no such user
    try:
        os.listdir(root)
        os.stat(os.path.join(root, os.curdir))  # fails where the names can be listed but no file be opened
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise DataError(f"data.root must be a folder that can be read, got {root}: {reason(error)}") from error
    return root


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


@dataclass(frozen=True)
class Published:
    """A published data set: its files and archives (paths under `root`, with MD5 where known), and how to get them."""

    name: str
    root: Path
    files: Mapping[str, str | None]
    archives: Mapping[str, str]
    download: Callable[[], Any]  # puts `files` under `root`, from `archives` if those are there

    def ensure(self) -> None:
        """Download unless all files are there: one process at a time, and nothing half-written stays behind.

        Raises:
            DataError: A file is damaged, or the download fails.
        """
        lock = self.root / LOCK
        if lock.exists():  # another process is at it, or was when it was killed
            with contextlib.suppress(OSError), FileLock(lock):
                pass
        try:
            if self.is_whole(self.files):
                return
        except DataError:
            if not lock.exists():  # otherwise the file may be half there because another process has just begun
                raise
        created = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                try:
                    self.fetch()
                finally:
                    with contextlib.suppress(OSError):  # before the release: who waits for it then makes a new one
                        lock.unlink()
        except DataError:
            raise
        except Exception as error:  # of the network, the disk and the archive, as urllib, tarfile and zlib raise them
            why = "a downloaded file has the wrong checksum" if "corrupted" in str(error) else reason(error)
            raise DataError(
                f"data set {self.name} is not in data.root {self.root} and cannot be downloaded into it: {why}; check "
                f"the network and the folder, or put {', '.join(self.archives or self.files)} there by hand"
            ) from error
        finally:
            for folder in created:
                with contextlib.suppress(OSError):  # only empty ones go
                    folder.rmdir()

    def fetch(self) -> None:
        """Download, under the lock; if that fails, take away what is new and not whole."""
        if self.is_whole(self.files):  # by the process that held the lock before
            return
        self.is_whole(self.archives)
        checksums = {**self.files, **self.archives}
        absent = {name.split("/")[0] for name in checksums}
        absent = {name for name in absent if not (self.root / name).exists()}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some versions of torchvision print their progress
                self.download()
            if not self.is_whole(self.files):
                raise DataError(f"data set {self.name} lacks files in {self.root} after its download")
        except BaseException:
            for name in absent:
                if (self.root / name).is_dir():
                    shutil.rmtree(self.root / name, ignore_errors=True)
                elif not matches(self.root / name, checksums.get(name)):
                    (self.root / name).unlink(missing_ok=True)
            raise

    def is_whole(self, files: Mapping[str, str | None]) -> bool:
        """Return whether all `files` are there.

        Raises:
            DataError: One that is there is not the published one.
        """
        for path, md5 in ((self.root / name, md5) for name, md5 in files.items()):
            if os.path.exists(path) and not matches(path, md5):
                raise DataError(
                    f"{path} does not have the checksum of the published file of data set {self.name}; delete it to "
                    "have it downloaded again"
                )
        return all(os.path.exists(self.root / name) for name in files)


def matches(path: Path, md5: str | None) -> bool:
    """Return whether `path` is a file with this checksum, any where that is not known."""
    from torchvision.datasets.utils import check_integrity

    try:
        return check_integrity(path, md5)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def read_published(
    published: Published, open_split: Callable[[bool], Any], to_images: Callable[[Any], ImageSet]
) -> tuple[ImageSet, ImageSet, Any]:
    """Return training set, test set and torchvision's data set of the latter, once all files have their checksums.

    Only then are pickles opened: to load one is to run what is in it.
    """
    published.ensure()
    try:
        train, test = to_images(open_split(True)), open_split(False)
        return train, to_images(test), test
    except Exception as error:  # no right to read, or a reader that fails on these files
        raise DataError(f"data set {published.name} in {published.root} cannot be read: {reason(error)}") from error


def contiguous_set(images: Any, labels: Any) -> ImageSet:
    """Return an ImageSet of arrays (N, C, H, W) and (N,)."""
    return ImageSet(torch.as_tensor(images).contiguous(), torch.as_tensor(labels).long())


def read_cifar(config: DataConfig, class_name: str) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read CIFAR-10 or CIFAR-100 (fine labels) from the Python pickles."""
    from torchvision import datasets

    cifar, root = getattr(datasets, class_name), open_root(config)
    files = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    published = Published(
        config.name,
        root,
        files={f"{cifar.base_folder}/{name}": md5 for name, md5 in files},
        archives={cifar.filename: cifar.tgz_md5},
        download=lambda: cifar(root, download=True),
    )
    train, test, opened = read_published(
        published,
        open_split=lambda train: cifar(root, train=train),
        to_images=lambda split: contiguous_set(split.data.transpose(0, 3, 1, 2), split.targets),
    )
    return train, test, tuple(opened.classes)


def read_svhn(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the cropped digits of SVHN, without its extra images."""
    from torchvision.datasets import SVHN

    root, splits = open_root(config), ("train", "test")
    published = Published(
        config.name,
        root,
        files={name: md5 for _, name, md5 in (SVHN.split_list[split] for split in splits)},
        archives={},
        download=lambda: [SVHN(root, split, download=True) for split in splits],
    )
    train, test, _ = read_published(
        published,
        open_split=lambda train: SVHN(root, "train" if train else "test"),
        to_images=lambda split: contiguous_set(split.data, split.labels),
    )
    return train, test, tuple(str(digit) for digit in range(10))


def read_stl10(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the labelled images of STL-10."""
    from torchvision.datasets import STL10

    class Labelled(STL10):
        train_list = STL10.train_list[:2]  # the third, 2.6 GB of unlabelled images, need not be there

    root = open_root(config)
    published = Published(
        config.name,
        root,
        files={f"{STL10.base_folder}/{name}": md5 for name, md5 in [*Labelled.train_list, *Labelled.test_list]},
        archives={STL10.filename: STL10.tgz_md5},
        download=lambda: Labelled(root, "test", download=True),
    )
    train, test, _ = read_published(
        published,
        open_split=lambda train: Labelled(root, "train" if train else "test"),
        to_images=lambda split: contiguous_set(split.data, split.labels),
    )
    return train, test, STL10_CLASSES


def read_fashion_mnist(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read Fashion-MNIST from IDX files: those in the root itself, or torchvision's under it; padded to 32×32."""
    from torchvision.datasets import FashionMNIST

    root = open_root(config)
    # A plain file takes the place of its .gz.
    found = {stem: path for stem in IDX_STEMS for path in (root / f"{stem}.gz", root / stem) if path.is_file()}
    if not found:
        published = Published(
            config.name,
            root,
            files={f"FashionMNIST/raw/{stem}": None for stem in IDX_STEMS},
            archives={f"FashionMNIST/raw/{name}": md5 for name, md5 in FashionMNIST.resources},
            download=lambda: FashionMNIST(root, download=True),
        )
        published.ensure()
        found = {stem: root / "FashionMNIST" / "raw" / stem for stem in IDX_STEMS}
    if missing := [stem for stem in IDX_STEMS if stem not in found]:
        raise DataError(f"data.root {root} lacks {', '.join(missing)} (plain or .gz) of data set {config.name}")
    classes = tuple(FashionMNIST.classes)
    train, test = (
        read_idx_pair(found[f"{part}-images-idx3-ubyte"], found[f"{part}-labels-idx1-ubyte"], len(classes))
        for part in ("train", "t10k")
    )
    return train, test, classes


def read_idx_pair(images_path: Path, labels_path: Path, num_classes: int) -> ImageSet:
    """Read 28×28 images and their labels, and zero-pad the images to 32×32.

    Raises:
        DataError: A file is damaged, or the two do not fit together.
    """
    images, labels = read_idx(images_path, (28, 28)), read_idx(labels_path, ())
    if len(images) != len(labels):
        raise DataError(f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels")
    if labels.max() >= num_classes:
        raise DataError(f"{labels_path} must hold labels from 0 to {num_classes - 1}, got {labels.max()}")
    return ImageSet(F.pad(images.unsqueeze(1), (2, 2, 2, 2)), labels.long())


def read_idx(path: Path, item_shape: tuple[int, ...]) -> Tensor:
    """Read an IDX file of bytes, plain or .gz: items of `item_shape`, at least one.

    The format: 0, 0, 8 for unsigned bytes, the number of dimensions, each as a big-endian 32-bit number, the bytes.

    Raises:
        DataError: It is anything else.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
    num_dims = 1 + len(item_shape)
    start = 4 + 4 * num_dims
    if content[:4] != bytes([0, 0, 8, num_dims])[: len(content)]:
        raise DataError(f"{path} is no IDX file of bytes with {num_dims} dimension(s): it begins with {content[:4]!r}")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) >= start and (shape[0] == 0 or shape[1:] != item_shape):
        raise DataError(f"{path} must hold items of shape {item_shape}, at least one, got an array of shape {shape}")
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"{path} is damaged: {len(content)} bytes, where its header says {start + math.prod(shape)}; replace it"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def read_folder(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the images under train/ and test/ of the root, each with a folder per class."""
    root = open_root(config)
    if not root.exists():
        raise DataError(f"data.root {root} does not exist; a data set of images has train/ and test/ in it")
    train, classes = list_images(root / "train")
    test, test_classes = list_images(root / "test")
    if len(classes) < 2:
        raise DataError(f"{root / 'train'} must hold a folder for each of at least two classes, got {classes}")
    if odd := sorted(set(classes) ^ set(test_classes)):
        raise DataError(f"{root / 'train'} and {root / 'test'} must hold the same classes; not in both: {odd}")
    for folder, items in ((root / "train", train), (root / "test", test)):
        if empty := [name for label, name in enumerate(classes) if label not in {label for _, label in items}]:
            what = f"the class folder(s) {', '.join(empty)}" if items else "any of its class folders"
            raise DataError(f"{folder} holds no images in {what}")
    return image_set(train, config), image_set(test, config), tuple(classes)


def list_images(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Return path and label of each image, in order, and the class names.

    Raises:
        DataError: The folder is missing or cannot be read.
    """
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing; a data set of images has train/ and test/ in data.root")
    try:
        if not any(entry.is_dir() for entry in folder.iterdir()):
            return [], []
        listed = ImageFolder(folder, allow_empty=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {reason(error)}") from error
    return listed.samples, listed.classes


def image_set(items: list[tuple[str, int]], config: DataConfig) -> ImageSet:
    """Return listed images with their labels: decoded if that takes `resident_mib` at most, else to be streamed."""
    images = FolderImages([path for path, _ in items], config.image_size)
    labels = torch.tensor([label for _, label in items])
    shape = (len(images), 3, config.image_size, config.image_size)
    if math.prod(shape) > config.resident_mib * 2**20:
        return ImageSet(images, labels)
    resident, start = torch.empty(shape, dtype=torch.uint8), 0
    for batch in decoded(images, config.num_workers):
        resident[start : start + len(batch)] = batch
        start += len(batch)
    return ImageSet(resident, labels)


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
