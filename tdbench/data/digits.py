"""The UCI digits, read from the file in scikit-learn's package, since importing scikit-learn is slow."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tdbench.config import DataConfig
from tdbench.data.images import ImageSet
from tdbench.errors import DataError

# One bit per image, set for the 360 of 1,797 that are the test set, as scikit-learn's train_test_split(range(1797),
# test_size=360, random_state=0, stratify=target) chooses them.
_TEST_IMAGES = bytes.fromhex(
    "000004883524104000064100934205001a00080100240028062c12001000940a009019120420f8a0028110a000080a8820441524494240a00a00"
    "00004004d80000818020004805c400104008a0100005404800301000020ec409000224840083a8013c20a6980a0000000b08400804a018480202"
    "4041c1008004404684376a810216004480004042a0a4180a5000840b8561c608108008004c80c02004068e00010882008100380803c008190000"
    "100e01008410a0210033282904c044c080680e0102830082008822a6402c24042108a860809081a00c02820242120138a41500"
)


def read_digits(config: DataConfig) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Read the 1,797 images of the UCI digits; 360 of them, stratified and always the same, are the test set.

    Raises:
        DataError: scikit-learn's file is not there.
    """
    rows = read_rows()
    pixels = torch.from_numpy(rows[:, :-1]).view(-1, 1, 8, 8).mul(255 / 16).round()
    labels = torch.from_numpy(rows[:, -1]).long()
    # Whole numbers times eighths are exact in floating point, so that every machine rounds alike.
    resized = F.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
    every = ImageSet(resized.round().to(torch.uint8), labels)
    is_test = torch.from_numpy(np.unpackbits(np.frombuffer(_TEST_IMAGES, np.uint8))[: len(every)]).bool()
    train, test = (every.select(torch.nonzero(part).flatten()) for part in (~is_test, is_test))
    return train, test, tuple(map(str, range(10)))


def read_rows() -> np.ndarray:
    """Return (1797, 65): the 64 pixels of each image, from 0 to 16, and its digit."""
    package = find_spec("sklearn")
    places = package.submodule_search_locations if package is not None else None
    try:
        path = Path((places or ["scikit-learn"])[0], "datasets", "data", "digits.csv.gz")
        return np.loadtxt(gzip.open(path, "rt", encoding="ascii"), delimiter=",")
    except (OSError, ValueError) as error:
        raise DataError(f"data set digits cannot be read from scikit-learn's package: {error}") from error
