"""The data sets that are known by name, each declared once, with the function under `data/` that reads it."""

from dataclasses import dataclass

from tdbench.errors import ConfigError, unknown


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


def find_data_set(name: str) -> DataSet:
    """Return the data set called `name`.

    Raises:
        ConfigError: There is none; the nearest name is given.
    """
    if name not in DATA_SETS:
        raise ConfigError(unknown("data set", name, DATA_SETS))
    return DATA_SETS[name]
