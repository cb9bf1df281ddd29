"""The user's own data: a function in a file, named `file.py:make_data`, that returns two data sets.

It returns `(train, test)`, or `(train, test, class_names)`. Each of the two is either a pair `(images, labels)`, uint8
(N, C, H, W) and whole numbers (N,), or a map-style `torch.utils.data.Dataset` of pairs `(image, label)`, where an image
is a PIL image, or uint8 (C, H, W), (H, W, C) or (H, W). All images are square and of one shape, but PIL images, which
are resized and cropped as those of a folder are.
"""

import inspect
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tdbench.config import DataConfig
from tdbench.data.images import ImageSet, make_pillow_ready, squared
from tdbench.errors import ConfigError, DataError, TdbenchError
from tdbench.store.progress import tell
from tdbench.user_code import load_object, reason_of, short_name

CHANNELS = (1, 3)  # how many tell which axis is theirs
TELL_EVERY = 256  # images
SEED = 0  # of what the user's function draws, such as a split, so that all runs see the same images

Read = tuple[ImageSet, ImageSet, tuple[str, ...]]


def read_user(config: DataConfig) -> Read:
    """Return what the user's function returns, as images in memory; it is given `root`, data.root, if it takes that.

    Raises:
        ConfigError: The function is none, or raises.
        DataError: It returns something else than it should.
    """
    name = short_name(config.name)
    function = load_object(config.name)
    if not callable(function):
        raise ConfigError(f"{name} must be a function that returns two data sets, got {type(function).__name__}")
    takes_root = "root" in inspect.signature(function).parameters
    try:
        with random_numbers_seeded():
            made = function(root=Path(config.root)) if takes_root else function()
            return collected(name, made, config)
    except TdbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} cannot be read: {reason_of(error)}") from error


def collected(name: str, made: Any, config: DataConfig) -> Read:
    """Return data sets as images in memory, with the names of their classes.

    Args:
        name: Of what made them, for messages.
        made: `(train, test)` or `(train, test, class_names)`.
        config: How PIL images are resized; and whether the test images are read.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(made, Sequence) or len(made) not in (2, 3):
        got = f"{len(made)} values" if isinstance(made, Sequence) else type(made).__name__
        raise DataError(f"{name} must return (train, test) or (train, test, class_names), got {got}")
    train = image_set(f"{name}: train", made[0], config)
    test = image_set(f"{name}: test", made[1], config) if config.test else train.select(torch.empty(0).long())
    if len(test) and train.images[0].shape != test.images[0].shape:
        shapes = " and ".join("×".join(map(str, one.images[0].shape)) for one in (train, test))
        raise DataError(f"{name}: the images of train and test must be of one shape, got {shapes}")
    return train, test, class_names(name, torch.cat([train.labels, test.labels]), made[2] if len(made) == 3 else None)


def class_names(name: str, labels: Tensor, given: Any) -> tuple[str, ...]:
    """Return the names of the classes: those that are given, or the labels themselves.

    Raises:
        DataError: There are too few, or no label has one of the numbers.
    """
    present = labels.unique().tolist()
    if given is None:
        if present != list(range(len(present))):
            raise DataError(
                f"{name}: labels must be 0 to one less than the number of classes, each with an image, got "
                f"{len(present)} labels from {present[0]} to {present[-1]}; name the classes otherwise"
            )
        given = present
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) < 2 or len(given) <= present[-1]:
        got = repr(given) if isinstance(given, str) or not isinstance(given, Sequence) else f"{len(given)} names"
        raise DataError(
            f"{name}: there must be at least two classes, and a name for each label up to {present[-1]}, got {got}"
        )
    return tuple(map(str, given))


def image_set(which: str, part: Any, config: DataConfig) -> ImageSet:
    """Return one of the two data sets as images in memory.

    Raises:
        DataError: It is neither arrays nor a data set.
    """
    if isinstance(part, (tuple, list)) and len(part) == 2 and isinstance(part[0], (Tensor, np.ndarray)):
        return arrays(which, *part)
    is_map_style = hasattr(part, "__getitem__") and hasattr(part, "__len__")
    if not is_map_style or isinstance(part, torch.utils.data.IterableDataset):
        raise DataError(
            f"{which} must be a map-style Dataset of (image, label), or a pair of arrays (images, labels), got "
            f"{type(part).__name__}"
        )
    images, labels = [], []
    make_pillow_ready()
    num_images = len(part)
    for number in range(num_images):
        if number % TELL_EVERY == 0:
            tell(number / num_images, f"reading {num_images:,} images of {which}")
        image, label = item_of(f"{which}[{number}]", part, number, config)
        images.append(image)
        labels.append(label)
        if images[number].shape != images[0].shape:
            shapes = " and ".join("×".join(map(str, one.shape)) for one in (images[0], images[number]))
            raise DataError(f"{which}[{number}] must be of the shape of the first image, got {shapes}")
    tell(1.0, f"reading {num_images:,} images of {which}")
    return arrays(which, torch.stack(images) if images else torch.empty(0, 3, 1, 1).byte(), labels)


def arrays(which: str, images: Any, labels: Any) -> ImageSet:
    """Return images (N, C, H, W) and labels (N,) as an image set.

    Raises:
        DataError: They are of another type, shape or number.
    """
    pixels, classes = as_tensor(images).cpu(), as_tensor(labels).cpu()
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[2] != pixels.shape[3] or not len(pixels):
        raise DataError(
            f"{which} must have images uint8 (N, C, H, W), at least one, as high as wide, got {described(pixels)}"
        )
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool or classes.dim() != 1:
        raise DataError(f"{which} must have labels that are whole numbers (N,), got {described(classes)}")
    classes = classes.long()
    lowest = min(classes.tolist(), default=0)
    if len(classes) != len(pixels) or lowest < 0:
        raise DataError(
            f"{which} must have a label from 0 for each image, got {len(classes)} from {lowest} for "
            f"{len(pixels)} images"
        )
    return ImageSet(pixels.contiguous(), classes)


def as_tensor(values: Any) -> Tensor:
    """Return values as a tensor; an array that torch does not take as it is, is copied."""
    if isinstance(values, np.ndarray):
        values = np.require(values, values.dtype.newbyteorder("="), ["C", "W"])
    return torch.as_tensor(values)


def item_of(which: str, part: Any, number: int, config: DataConfig) -> tuple[Tensor, int]:
    """Return the image, uint8 (C, H, W), and the label of an item of a data set.

    Raises:
        DataError: It cannot be read, or is no pair, or one of another type.
    """
    try:
        item = part[number]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            got = f"{len(item)} values" if isinstance(item, (tuple, list)) else type(item).__name__
            raise DataError(f"{which} must be a pair (image, label), got {got}")
        return pixels_of(which, item[0], config), label_of(which, item[1])
    except TdbenchError:
        raise
    except Exception as error:  # of the user's code, or Pillow's
        raise DataError(f"{which} cannot be read: {reason_of(error)}") from error


def pixels_of(which: str, image: Any, config: DataConfig) -> Tensor:
    """Return an image as uint8 (C, H, W).

    Where both its first and its last axis may be the channels', it is the first of a tensor and the last of an array.

    Raises:
        DataError: It is of another type or shape.
    """
    if isinstance(image, Image.Image):
        return squared(image, config.image_size, config.resize_size or config.image_size)
    if not isinstance(image, (Tensor, np.ndarray)):
        raise DataError(f"{which} must have a PIL image or uint8 pixels, got {type(image).__name__}")
    pixels = as_tensor(image)
    if pixels.dim() == 2:
        pixels = pixels.unsqueeze(0)
    is_first, is_last = (pixels.dim() == 3 and pixels.shape[axis] in CHANNELS for axis in (0, -1))
    if pixels.dtype != torch.uint8 or not (is_first or is_last):
        hint = "; leave ToTensor and Normalize out" if pixels.is_floating_point() else ""
        raise DataError(
            f"{which} must have pixels uint8 (C, H, W), (H, W, C) or (H, W), where C is 1 or 3, got "
            f"{described(pixels)}{hint}"
        )
    is_channels_last = is_last and (not is_first or isinstance(image, np.ndarray))
    return pixels.permute(2, 0, 1) if is_channels_last and image.ndim == 3 else pixels


def label_of(which: str, label: Any) -> int:
    """Return a label as a number.

    Raises:
        DataError: It is no whole number.
    """
    values = np.asarray(label)
    number = values.item() if values.size == 1 else label
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(f"{which} must have a label that is a whole number, got {label!r}")
    return number


def described(values: Tensor) -> str:
    """Return type and shape of an array in a few words."""
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"


@contextmanager
def random_numbers_seeded() -> Iterator[None]:
    """Let random numbers be the same each time for as long as this lasts, and then go on as they would have."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002, it is what the user's code may draw from
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            np.random.seed(SEED)  # noqa: NPY002
            random.seed(SEED)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
