"""Image folders: train/ and test/, each with a folder of images per class."""

import math
from pathlib import Path

import torch

from tdbench.config import DataConfig
from tdbench.data.images import FolderImages, ImageSet, decoded, open_root
from tdbench.errors import DataError, line_of


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
        raise DataError(f"{folder} cannot be read: {line_of(error, with_type=False)}") from error
    return listed.samples, listed.classes


def image_set(items: list[tuple[str, int]], config: DataConfig) -> ImageSet:
    """Return listed images with their labels: decoded now if they fit `resident_mib`, else on demand."""
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
