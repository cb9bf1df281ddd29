"""The four IDX files of Fashion-MNIST: where they lie, and what is in them."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from tdbench.config.fingerprints import remembered
from tdbench.store.files import open_file

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNDER_ROOT = Path("FashionMNIST", "raw")  # where torchvision puts them
PIECE = 2**20  # bytes decompressed at once
MOST_BYTES = 2**30  # in one file

# SHA-256 of what is in the published files. Runs on them are named as they always were.
PUBLISHED = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def find_files(folder: Path) -> dict[str, Path]:
    """Return those of the four files that lie in a folder; a plain one takes precedence over its .gz."""
    return {stem: path for stem in STEMS for path in (folder / f"{stem}.gz", folder / stem) if os.path.isfile(path)}


def contents(root: Path) -> dict[str, str] | None:
    """Return the fingerprint of each file, none where they are the published ones; None: one is missing or damaged."""
    found = find_files(root) or find_files(root / UNDER_ROOT)
    if set(found) != set(STEMS):
        return None

    def work_out() -> dict[str, str]:
        return {stem: unpacked_digest(path) for stem, path in found.items()}

    try:
        told = remembered(root, [str(path) for path in found.values()], work_out)
    except (OSError, EOFError, zlib.error):
        return None
    return {} if told == PUBLISHED else told


def unpacked_digest(path: Path) -> str:
    """Return the SHA-256 of what is in a file, plain or .gz, as far as `MOST_BYTES`."""
    seen, left = hashlib.sha256(), MOST_BYTES
    with opened(path) as file:
        while left > 0 and (piece := file.read(min(PIECE, left))):
            seen.update(piece)
            left -= len(piece)
    return seen.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, plain or .gz, to read what is in it."""
    with open_file(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.open(file) as unpacked:
            yield cast(BinaryIO, unpacked)
