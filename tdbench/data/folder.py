"""Image folders: train/ and test/, or val/, each with a folder of images per class; decoded once for all runs."""

import hashlib
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tdbench.config import DataConfig
from tdbench.config.contents import data_parts
from tdbench.config.image_folders import CACHE, Listing, judging_part, list_class_folders
from tdbench.data.cache import Broken, Decoded, build_cache, decode, key_of, open_cache, shape_of
from tdbench.data.images import FolderImages, ImageSet, MappedImages, StreamedImages, open_root
from tdbench.errors import DataError, FolderError, Note, line_of

MOST_NAMED = 3  # broken images that are told by name


def read_folder(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the images under train/ and test/ of the root, or val/ where that is lacking; each has a folder per class.

    Raises:
        DataError: Something is missing, or cannot be read or decoded.
    """
    root = open_root(config)
    if not root.exists():
        raise DataError(f"data.root {root} does not exist; a data set of images has train/ and test/, or val/, in it")
    judged = judging_part(root)
    train, test = listing_of(root / "train"), listing_of(root / judged)
    if len(train.classes) < 2:
        raise DataError(f"{root / 'train'} must hold a folder for each of at least two classes, got {train.classes}")
    odd = {
        "train": sorted(set(train.classes) - set(test.classes)),
        judged: sorted(set(test.classes) - set(train.classes)),
    }
    if told := [f"{', '.join(names)} in {part} alone" for part, names in odd.items() if names]:
        raise DataError(f"{root / 'train'} and {root / judged} must hold the same classes; {', '.join(told)}")
    for folder, listing in ((root / "train", train), (root / judged, test)):
        check_every_class(folder, listing.classes, [label for _, label in listing.images])
    if not config.test:
        test = replace(test, images=[])
    train_set, test_set = image_sets(root, {"train": train, judged: test}, config)
    return train_set, test_set, tuple(train.classes)


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
        raise DataError(f"folder {folder} is missing; a data set of images has train/ and test/, or val/, in data.root")
    try:
        return list_class_folders(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {line_of(error, with_type=False)}") from error


def image_sets(root: Path, listings: Mapping[str, Listing], config: DataConfig) -> list[ImageSet]:
    """Return the images of each part of a folder with their labels, without the broken ones where that is asked for.

    Raises:
        DataError: Images are broken, or those that are left out leave a class without one; or a file cannot be read.
    """
    notes: set[str] = set()
    read = {part: read_part(root, part, listing, config, notes) for part, listing in listings.items()}
    for note in sorted(notes):
        warnings.warn(note, Note, stacklevel=2)
    paths = [(listings[part].images[i][0], why) for part, (_, broken) in read.items() for i, why in broken.items()]
    if paths and not config.skip_broken:
        raise DataError(told_broken(paths))
    sets = []
    for part, (images, broken) in read.items():
        if broken:
            is_broken = torch.zeros(len(images), dtype=torch.bool).index_fill_(0, torch.tensor([*broken]), True)
            whole = images.select(torch.nonzero(~is_broken).flatten())
            labels: list[int] = whole.labels.tolist()
            check_every_class(root / part, listings[part].classes, labels, "images that can be decoded")
            images = replace(whole, left_out={**images.left_out, "broken": len(broken)})
        sets.append(images)
    return sets


def check_every_class(folder: Path, classes: Sequence[str], labels: Iterable[int], which: str = "images") -> None:
    """Check that each class has an image; `which` they are, in words.

    Raises:
        DataError: One has none.
    """
    present = set(labels)
    if empty := [name for label, name in enumerate(classes) if label not in present]:
        what = f"the class folder(s) {', '.join(empty)}" if present else "any of its class folders"
        raise DataError(f"{folder} holds no {which} in {what}")


def told_broken(broken: Sequence[tuple[str, str]]) -> str:
    """Return in a line which images are broken, the first of them by name, and what to do."""
    if len(broken) == 1:
        ((path, why),) = broken
        return f"image {path} cannot be decoded: {why}; repair or remove it, or leave it out: --set skip_broken=true"
    first = ", ".join(f"{path} ({why})" for path, why in broken[:MOST_NAMED])
    more = f" and {len(broken) - MOST_NAMED:,} more" if len(broken) > MOST_NAMED else ""
    return (
        f"{len(broken):,} images cannot be decoded: {first}{more}; repair or remove them, or leave them out: "
        "--set skip_broken=true"
    )


def read_part(root: Path, part: str, listing: Listing, config: DataConfig, notes: set[str]) -> tuple[ImageSet, Broken]:
    """Return the images of a part, in memory, mapped into it or on disk, and those of them that are broken."""
    images = FolderImages([path for path, _ in listing.images], config.image_size, config.resize_size)
    labels = torch.tensor([label for _, label in listing.images], dtype=torch.int64)
    is_resident = math.prod(shape_of(images)) <= config.resident_mib * 2**20
    cached = decoded_once(root, part, images, config, notes) if len(images) else None
    pixels: Tensor | StreamedImages
    if cached is not None:
        pixels = cached.pixels if is_resident else MappedImages.of(cached.pixels)
        return ImageSet(pixels, labels, listing.left_out), cached.broken
    if not is_resident:
        return ImageSet(images, labels, listing.left_out), decode(images)
    pixels = torch.empty(shape_of(images), dtype=torch.uint8)
    broken = decode(images, pixels.__setitem__)
    return ImageSet(pixels, labels, listing.left_out), broken


def decoded_once(root: Path, part: str, images: FolderImages, config: DataConfig, notes: set[str]) -> Decoded | None:
    """Return images as they were decoded once for all runs, now if need be; None and a note where that is no use.

    Raises:
        DataError: A file cannot be read.
    """
    place = config.cache / f"{root.name}-{place_digest(root)}" if config.cache else root / CACHE
    cache = place / f"{part}-{images.resize_size}-{images.image_size}"
    parts: Mapping[str, str] = data_parts(config.name, config.root) or {}
    content = {name: told for name, told in parts.items() if name.startswith(f"{part}/")}

    def key_now() -> str:
        return key_of(images, root / part, content)

    try:
        return open_cache(cache, key_now(), images) or build_cache(cache, key_now, images)
    except (OSError, FolderError, NotImplementedError) as error:
        why = line_of(error.__cause__ or error, with_type=False)
        notes.add(f"decoded images cannot be kept in {place} ({why}); each run decodes them anew: --cache DIR")
        return None


def place_digest(root: Path) -> str:
    """Return what tells folders of the same name apart."""
    return hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:12]
