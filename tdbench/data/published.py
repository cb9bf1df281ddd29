"""Published data sets through torchvision: downloaded once, verified, and read unchanged."""

import contextlib
import io
import math
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from tdbench.config import DataConfig
from tdbench.config.idx_files import MOST_BYTES, STEMS, UNDER_ROOT, find_files, opened
from tdbench.data.images import ImageSet, open_root
from tdbench.errors import DataError, line_of

LOCK = ".tdbench-download.lock"
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


@dataclass(frozen=True)
class Published:
    """A published data set: its files and archives (paths under `root`, with MD5 where known), and how to get them."""

    name: str
    root: Path
    files: Mapping[str, str | None]
    archives: Mapping[str, str]
    download: Callable[[], Any]  # puts `files` under `root`, from `archives` if those are there

    def ensure(self) -> None:
        """Download unless all files exist: one process at a time, and without leaving partial files behind.

        Raises:
            DataError: A file is damaged, or the download fails.
        """
        lock = self.root / LOCK
        if lock.exists():  # another process is downloading, or was killed while it did
            with contextlib.suppress(OSError), FileLock(lock):
                pass
        try:
            if self.is_whole(self.files):
                return
        except DataError:
            if not lock.exists():  # otherwise another process may just have begun to write the file
                raise
        created = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):
                try:
                    self.fetch()
                finally:
                    with contextlib.suppress(OSError):  # before the release, so that waiting processes make a new one
                        lock.unlink()
        except DataError:
            raise
        except Exception as error:  # urllib, tarfile, zlib and the disk raise many types
            why = (
                "a downloaded file has the wrong checksum"
                if "corrupted" in str(error)
                else line_of(error, with_type=False)
            )
            raise DataError(
                f"data set {self.name} is not in data.root {self.root} and cannot be downloaded into it: {why}; check "
                f"the network and the folder, or put {', '.join(self.archives or self.files)} there by hand"
            ) from error
        finally:
            for folder in created:
                with contextlib.suppress(OSError):  # removes only empty ones
                    folder.rmdir()

    def fetch(self) -> None:
        """Download while holding the lock; on failure, remove new files that are incomplete."""
        if self.is_whole(self.files):  # downloaded by the process that held the lock before
            return
        self.is_whole(self.archives)
        checksums = {**self.files, **self.archives}
        absent = {name.split("/")[0] for name in checksums}
        absent = {name for name in absent if not (self.root / name).exists()}
        try:
            with contextlib.ExitStack() as streams:
                if sys.stderr.isatty():  # some versions of torchvision print their progress on stdout
                    streams.enter_context(contextlib.redirect_stdout(sys.stderr))
                else:  # a progress bar in a log is only control characters
                    streams.enter_context(contextlib.redirect_stdout(io.StringIO()))
                    streams.enter_context(contextlib.redirect_stderr(io.StringIO()))
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
        """Return whether all `files` exist.

        Raises:
            DataError: An existing file does not have the published checksum.
        """
        for path, md5 in ((self.root / name, md5) for name, md5 in files.items()):
            if os.path.exists(path) and not matches(path, md5):
                raise DataError(
                    f"{path} does not have the checksum of the published file of data set {self.name}; delete it to "
                    "have it downloaded again"
                )
        return all(os.path.exists(self.root / name) for name in files)


def matches(path: Path, md5: str | None) -> bool:
    """Return whether `path` is a file with this MD5; None accepts any file."""
    from torchvision.datasets.utils import check_integrity

    try:
        return check_integrity(path, md5)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {line_of(error, with_type=False)}") from error


def read_published(
    published: Published, open_split: Callable[[bool], Any], to_images: Callable[[Any], ImageSet], with_test: bool
) -> tuple[ImageSet, ImageSet, Any]:
    """Return training set, test set and torchvision's data set of the former, after all checksums are verified.

    Without the test set, an empty one.

    Pickles are opened only then, since loading one runs the code in it.
    """
    published.ensure()
    try:
        opened = open_split(True)
        train = to_images(opened)
        test = to_images(open_split(False)) if with_test else train.select(torch.empty(0, dtype=torch.int64))
        return train, test, opened
    except Exception as error:  # no permission, or torchvision's reader fails
        raise DataError(
            f"data set {published.name} in {published.root} cannot be read: {line_of(error, with_type=False)}"
        ) from error


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
        with_test=config.test,
    )
    return train, test, tuple(opened.classes)


def read_cifar10(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    return read_cifar(config, "CIFAR10")


def read_cifar100(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    return read_cifar(config, "CIFAR100")


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
        with_test=config.test,
    )
    return train, test, tuple(str(digit) for digit in range(10))


def read_stl10(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the labelled images of STL-10."""
    from torchvision.datasets import STL10

    class Labelled(STL10):
        train_list = STL10.train_list[:2]  # without the third, 2.6 GB of unlabelled images

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
        with_test=config.test,
    )
    return train, test, STL10_CLASSES


def read_fashion_mnist(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read Fashion-MNIST from IDX files: those in the root itself, or torchvision's under it; padded to 32×32."""
    from torchvision.datasets import FashionMNIST

    root = open_root(config)
    found = find_files(root)
    if not found:
        published = Published(
            config.name,
            root,
            files={f"FashionMNIST/raw/{stem}": None for stem in STEMS},
            archives={f"FashionMNIST/raw/{name}": md5 for name, md5 in FashionMNIST.resources},
            download=lambda: FashionMNIST(root, download=True),
        )
        published.ensure()
        found = {stem: root / UNDER_ROOT / stem for stem in STEMS}
    if missing := [stem for stem in STEMS if stem not in found]:
        raise DataError(f"data.root {root} lacks {', '.join(missing)} (plain or .gz) of data set {config.name}")
    classes = tuple(FashionMNIST.classes)
    train, test = (
        read_idx_pair(found[f"{part}-images-idx3-ubyte"], found[f"{part}-labels-idx1-ubyte"], len(classes))
        for part in (("train", "t10k") if config.test else ("train", "train"))
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
        DataError: The file has another format or shape, or is damaged.
    """
    num_dims = 1 + len(item_shape)
    try:
        with opened(path) as file:
            header = file.read(4 + 4 * num_dims)
            if header[:4] != bytes([0, 0, 8, num_dims])[: len(header)]:
                raise DataError(
                    f"{path} is no IDX file of bytes with {num_dims} dimension(s): it begins with {header[:4]!r}"
                )
            if len(header) < 4 + 4 * num_dims:
                raise DataError(f"{path} is damaged: its header is cut short; replace it")
            shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, 4 + 4 * num_dims, 4))
            if shape[0] == 0 or shape[1:] != item_shape:
                raise DataError(
                    f"{path} must hold items of shape {item_shape}, at least one, got an array of shape {shape}"
                )
            size = math.prod(shape)
            if size > MOST_BYTES:
                raise DataError(f"{path} must hold at most {MOST_BYTES:,} bytes, and its header says {size:,}")
            content = file.read(size + 1)  # however much a .gz would become
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {line_of(error, with_type=False)}") from error
    if len(content) != size:
        what = "more" if len(content) > size else f"{len(content):,}"
        raise DataError(f"{path} is damaged: it holds {what} bytes, where its header says {size:,}; replace it")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)
