"""Data sets of two libraries: `medmnist:NAME`, and `hf:NAME` of Hugging Face's hub, or of a folder."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from tdbench.config import DataConfig
from tdbench.data.images import ImageSet, open_root
from tdbench.data.published import Published, contiguous_set, read_published
from tdbench.data.user import Read, collected
from tdbench.errors import ConfigError, DataError, line_of, unknown

JUDGING = ("test", "validation", "valid", "val")  # names of the part that judges, the first that is there


def read_medmnist(config: DataConfig) -> Read:
    """Read a two-dimensional set of MedMNIST with one label an image: `pathmnist` in 28×28, `pathmnist_64` in 64×64.

    28×28 images are zero-padded to 32×32. The validation images are not read.

    Raises:
        ConfigError: medmnist is not installed, or has no such set.
        DataError: The file is damaged, or cannot be downloaded.
    """
    with library("medmnist", "medmnist"):
        from medmnist import INFO, dataset
    theirs = config.name.partition(":")[2]
    flag, _, size = theirs.partition("_")
    sizes = dataset.MedMNIST2D.available_sizes
    known = [
        name for name, info in INFO.items() if "3D" not in info["python_class"] and "multi-label" not in info["task"]
    ]
    if flag not in known or (size and int_of(size) not in sizes[1:]):
        larger = ", ".join(f"_{one}" for one in sizes[1:])
        raise ConfigError(f"{unknown('data set of MedMNIST', theirs, known)}; each also with {larger}")
    info, root, suffix = INFO[flag], open_root(config), size and f"_{size}"
    made = getattr(dataset, info["python_class"])

    def download() -> None:
        try:
            made("test", root=root, size=int_of(size), download=True)
        except RuntimeError as error:  # ten lines of advice in place of what went wrong
            raise error.__context__ or error from None

    published = Published(
        config.name,
        root,
        files={f"{flag}{suffix}.npz": info[f"MD5{suffix}"]},
        archives={},
        download=download,
    )

    def to_images(split: Any) -> ImageSet:
        pixels = split.imgs[..., None] if split.imgs.ndim == 3 else split.imgs
        padding = 0 if size else 2
        return contiguous_set(F.pad(torch.from_numpy(pixels).permute(0, 3, 1, 2), (padding,) * 4), split.labels[:, 0])

    train, test, _ = read_published(
        published,
        open_split=lambda train: made("train" if train else "test", root=root, size=int_of(size)),
        to_images=to_images,
        with_test=config.test,
    )
    return train, test, tuple(info["label"][str(number)] for number in range(len(info["label"])))


@contextmanager
def library(name: str, extra: str) -> Iterator[None]:
    """Say what to install where a library that is imported meanwhile is missing.

    Raises:
        ConfigError: It is.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{name}, which reads these data, cannot be imported ({line_of(error, with_type=False)}): pip install "
            f'"tdbench[{extra}]"'
        ) from error


def int_of(text: str) -> int | None:
    """Return a whole number; None where a text is none."""
    return int(text) if text.isdecimal() else None


def read_hf(config: DataConfig) -> Read:
    """Read a set of images with classes through Hugging Face's `datasets`: from its hub, or from a folder.

    It is the first column of images and the first of class labels; its parts are train, and the first of `JUDGING`.

    Raises:
        ConfigError: datasets is not installed.
        DataError: There is no such set, or it lacks a part or a column.
    """
    with library("datasets", "hf"):
        import datasets
        from huggingface_hub.utils import logging
    path = config.name.partition(":")[2]
    if path.startswith((".", "~", "/")) and not os.path.isdir(path):
        raise DataError(f"{config.name} must be a folder, or the name of a set of the hub, and there is no such folder")
    datasets.disable_progress_bars()
    logging.set_verbosity_error()  # which else tells of each attempt
    try:
        if os.path.isfile(os.path.join(path, "dataset_dict.json")):
            parts = datasets.load_from_disk(path)
        else:
            parts = datasets.load_dataset(path)
    except Exception as error:  # the hub, the disk, and the scripts of a set raise many types
        raise DataError(f"{config.name} cannot be loaded: {line_of(error)}") from error
    judging = next((part for part in JUDGING if part in parts), None)
    if "train" not in parts or judging is None:
        raise DataError(f"{config.name} must have a part train and one of {', '.join(JUDGING)}, got {', '.join(parts)}")
    features = parts["train"].features
    image = column(config.name, features, datasets.Image, "images")
    label = column(config.name, features, datasets.ClassLabel, "class labels")
    return collected(
        config.name,
        (_Pairs(parts["train"], image, label), _Pairs(parts[judging], image, label), features[label].names),
        config,
    )


def column(name: str, features: Mapping[str, Any], kind: type, what: str) -> str:
    """Return the first column of a kind.

    Raises:
        DataError: There is none.
    """
    for key, feature in features.items():
        if isinstance(feature, kind):
            return key
    columns = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
    raise DataError(f"{name} must have a column of {what}, got {columns}; read it with a file of your own")


class _Pairs:
    """Two columns of a set as pairs."""

    def __init__(self, rows: Any, image: str, label: str) -> None:
        self._rows, self._image, self._label = rows, image, label

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        row = self._rows[number]
        return row[self._image], row[self._label]
