"""Image folders: train/ and test/, each with a folder of images per class."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from tdbench.config import DataConfig
from tdbench.config.image_folders import Listing, list_class_folders
from tdbench.data.images import FolderImages, ImageSet, decoded, open_root
from tdbench.errors import DataError, line_of


def read_folder(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the images under train/ and test/ of the root, each with a folder per class."""
    root = open_root(config)
    if not root.exists():
        raise DataError(f"data.root {root} does not exist; a data set of images has train/ and test/ in it")
    train, test = listing_of(root / "train"), listing_of(root / "test")
    if len(train.classes) < 2:
        raise DataError(f"{root / 'train'} must hold a folder for each of at least two classes, got {train.classes}")
    odd = {
        "train": sorted(set(train.classes) - set(test.classes)),
        "test": sorted(set(test.classes) - set(train.classes)),
    }
    if told := [f"{', '.join(names)} in {part} alone" for part, names in odd.items() if names]:
        raise DataError(f"{root / 'train'} and {root / 'test'} must hold the same classes; {', '.join(told)}")
    for folder, listing in ((root / "train", train), (root / "test", test)):
        labels = {label for _, label in listing.images}
        if empty := [name for label, name in enumerate(listing.classes) if label not in labels]:
            what = f"the class folder(s) {', '.join(empty)}" if labels else "any of its class folders"
            raise DataError(f"{folder} holds no images in {what}")
    if not config.test:
        test = replace(test, images=[])
    return image_set(train, config), image_set(test, config), tuple(train.classes)


def list_images(folder: Path) -> tuple[list[tuple[str, int]], list[str]]:
    """Return path and label of each image, in order, and the class names; see `listing_of`."""
    listing = listing_of(folder)
    return listing.images, listing.classes


def listing_of(folder: Path) -> Listing:
    """Return what a folder of class folders holds.

    Raises:
        DataError: The folder is missing or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing; a data set of images has train/ and test/ in data.root")
    try:
        return list_class_folders(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {line_of(error, with_type=False)}") from error


def image_set(listing: Listing, config: DataConfig) -> ImageSet:
    """Return listed images with their labels: decoded now if they fit `resident_mib`, else on demand."""
    images = FolderImages([path for path, _ in listing.images], config.image_size)
    labels = torch.tensor([label for _, label in listing.images], dtype=torch.int64)
    shape = (len(images), 3, config.image_size, config.image_size)
    if math.prod(shape) > config.resident_mib * 2**20:
        return ImageSet(images, labels, listing.left_out)
    resident, start = torch.empty(shape, dtype=torch.uint8), 0
    for batch in decoded(images, config.num_workers):
        resident[start : start + len(batch)] = batch
        start += len(batch)
    return ImageSet(resident, labels, listing.left_out)
