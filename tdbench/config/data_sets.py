"""The data sets that are known by name, each declared once, with the function under `data/` that reads it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from tdbench.errors import ConfigError, unknown
from tdbench.user_code import absolute, expanded, is_user_code, short_name, unnamed_code


@dataclass(frozen=True)
class DataSet:
    """A data set before it is read.

    Attributes:
        title: Its name for people.
        num_train, num_test, num_classes: None: they depend on the files.
        image: Channels, height and width as the network sees them, likewise.
        flip: A mirrored image keeps its class.
        provenance: Where it comes from.
        reader: `module:function` under `tdbench.data`; it takes a `DataConfig`.
        contents: `module:function` under `tdbench.config`, where the files may be others tomorrow: it takes the root,
            and returns what each part of the set is in words that change with it.
        place: Where the files are, if that is not the root.
        may_be_resampled: Its test images are not given by a publication, and may be drawn anew.
        reading: Rises when the reader makes other images of the same files, whose runs are then others too.
    """

    title: str
    num_train: int | None
    num_test: int | None
    num_classes: int | None
    image: tuple[int, int, int] | None
    flip: bool
    provenance: str
    reader: str
    reading: int = 1
    contents: str | None = None
    place: Path | None = None
    may_be_resampled: bool = False


DATA_SETS = {
    "digits": DataSet(
        *("Digits", 1437, 360, 10, (1, 32, 32)),
        flip=False,
        provenance="in scikit-learn (UCI optical digits, 8×8, resized)",
        reader="digits:read_digits",
        may_be_resampled=True,
    ),
    "fashion_mnist": DataSet(
        *("Fashion-MNIST", 60000, 10000, 10, (1, 32, 32)),
        flip=True,
        provenance="download, 30 MB (github.com/zalandoresearch/fashion-mnist, zero-padded from 28×28)",
        reader="published:read_fashion_mnist",
        contents="idx_files:contents",
    ),
    "cifar10": DataSet(
        *("CIFAR-10", 50000, 10000, 10, (3, 32, 32)),
        flip=True,
        provenance="download, 170 MB (www.cs.toronto.edu/~kriz/cifar.html)",
        reader="published:read_cifar10",
    ),
    "cifar100": DataSet(
        *("CIFAR-100", 50000, 10000, 100, (3, 32, 32)),
        flip=True,
        provenance="download, 169 MB (www.cs.toronto.edu/~kriz/cifar.html)",
        reader="published:read_cifar100",
    ),
    "svhn": DataSet(
        *("SVHN", 73257, 26032, 10, (3, 32, 32)),
        flip=False,
        provenance="download, 246 MB (ufldl.stanford.edu/housenumbers, without the extra images)",
        reader="published:read_svhn",
    ),
    "stl10": DataSet(
        *("STL-10", 5000, 8000, 10, (3, 96, 96)),
        flip=True,
        provenance="download, 2.6 GB (cs.stanford.edu/~acoates/stl10, the labelled images)",
        reader="published:read_stl10",
    ),
    "folder": DataSet(
        *("Image folder", None, None, None, None),
        flip=True,
        provenance="data.root with train/ and test/ (or val/), each with a folder per class",
        reader="folder:read_folder",
        contents="image_folders:contents",
        may_be_resampled=True,
        reading=2,  # 2: 16-bit grey, alpha, orientation, links
    ),
}


# Data sets by a pattern, whose images are read by a function of the user's or by a library; see `docs/data.md`.
PATTERNS = ("FILE.py:NAME", "medmnist:NAME", "hf:NAME")
RESIZED = ("folder", "*.py:*", "hf:*")  # whose images may be of any size


def full_name(name: str) -> str:
    """Return the name of a data set so that it means the same from everywhere."""
    library, _, theirs = name.partition(":")
    if library == "hf" and os.path.isdir(expanded(theirs)):
        return f"hf:{os.path.abspath(expanded(theirs))}"
    return absolute(name)


def find_data_set(name: str) -> DataSet:
    """Return a data set by its name: one of DATA_SETS, `file.py:NAME`, `medmnist:NAME`, `hf:NAME`.

    Whether a file or a library has what the name says, is seen where it is read.

    Raises:
        ConfigError: There is none; the nearest name is given.
    """
    if name in DATA_SETS:
        return DATA_SETS[name]
    unknown_facts: tuple[None, None, None, None] = (None, None, None, None)
    if is_user_code(name):
        title = f"the user's own {short_name(name)}"
        return DataSet(
            title, *unknown_facts, flip=False, provenance=title, reader="user:read_user", may_be_resampled=True
        )
    library, _, theirs = name.partition(":")
    if library == "medmnist" and theirs:
        # A mirrored organ may be another: femur-left, femur-right.
        flip = not theirs.startswith("organ")
        title = f"MedMNIST's {theirs}"
        return DataSet(title, *unknown_facts, flip=flip, provenance="medmnist.com", reader="libraries:read_medmnist")
    if library == "hf" and theirs:
        title, place = f"{theirs} through Hugging Face's datasets", Path(expanded(theirs))
        found = DataSet(title, *unknown_facts, flip=False, provenance="huggingface.co", reader="libraries:read_hf")
        return replace(found, contents="image_folders:all_files", place=place) if place.is_dir() else found
    raise ConfigError(unnamed_code(name) or unknown("data set", name, [*DATA_SETS, *PATTERNS]))
