"""What a folder of images holds: the files that count, in their order, and those that are left out."""

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from tdbench.config.fingerprints import fingerprints
from tdbench.errors import DataError, line_of

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif"]
)
CACHE = ".tdbench"  # under the root: what is decoded once


@dataclass
class Listing:
    """The images of one part of a data set.

    Attributes:
        classes: Names of the class folders, sorted.
        images: Path and label of each image, by class, then by folder, then by name.
        left_out: Why files and folders do not count, to how many.
    """

    classes: list[str] = field(default_factory=list)
    images: list[tuple[str, int]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_class_folders(folder: Path) -> Listing:
    """List the images of a folder of class folders: regular files, each once, whatever links lead to it.

    Hidden files and folders, such as `.ipynb_checkpoints`, do not count. A file that several links lead to belongs to
    the class in whose folder it lies, or else to the first.

    Raises:
        OSError: It cannot be read.
    """
    return _Walk(folder).listing


def judging_part(root: Path) -> str:
    """Return which part of a folder judges a run: test, or val where that alone is there."""
    return "val" if os.path.isdir(root / "val") and not os.path.isdir(root / "test") else "test"


def contents(root: Path) -> dict[str, str] | None:
    """Return the fingerprint of each class folder of train/ and of test/, or val/; None where they are not there.

    Raises:
        DataError: A folder or a file in them cannot be read, so that nobody knows whether it has changed.
    """
    parts = ("train", judging_part(root))
    if not all(os.path.isdir(root / part) for part in parts):
        return None
    try:
        files: dict[str, list[str]] = {}
        for part in parts:
            listing = list_class_folders(root / part)
            files |= {f"{part}/{name}": [] for name in listing.classes}
            for path, label in listing.images:
                files[f"{part}/{listing.classes[label]}"].append(path)
        return fingerprints(root, files)
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read: {line_of(error, with_type=False)}") from error


def all_files(root: Path) -> dict[str, str]:
    """Return the fingerprint of all files in a folder, but hidden ones.

    Raises:
        DataError: One cannot be read.
    """
    try:
        files = [str(path) for path in sorted(root.rglob("[!.]*")) if path.is_file()]
        return fingerprints(root, {root.name: files})
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read: {line_of(error, with_type=False)}") from error


class _Walk:
    """Goes through what lies in the class folders themselves, and then through what links lead to.

    The system is asked about links alone: what is no link lies where its folder does, and a folder knows what it is.
    """

    def __init__(self, folder: Path) -> None:
        self.listing = Listing()
        self._base = os.path.realpath(folder)
        self._seen: set[str] = set()
        self._folders: deque[tuple[int, str, str]] = deque()  # label, path, and where that leads
        self._links: deque[tuple[int, str]] = deque()
        with os.scandir(folder) as scanned:
            entries = sorted((entry for entry in scanned if entry.is_dir()), key=lambda entry: entry.name)
        for entry in entries:
            if not entry.name.startswith("."):
                self.listing.classes.append(entry.name)
            self._meet(len(self.listing.classes) - 1, entry, self._base)
        while self._folders or self._links:
            if self._folders:
                label, path, real = self._folders.popleft()
                with os.scandir(path) as scanned:
                    for entry in sorted(scanned, key=lambda entry: entry.name):
                        self._meet(label, entry, real)
            else:
                self._follow(*self._links.popleft())
        self.listing.images.sort(key=lambda image: (image[1], os.path.split(image[0])))

    def _meet(self, label: int, entry: "os.DirEntry[str]", folder: str) -> None:
        """Note what there is in a folder of a class; links are left for later."""
        if entry.name.startswith("."):
            self._leave_out("hidden")
        elif entry.is_symlink():
            self._links.append((label, entry.path))
        else:
            real = os.path.join(folder, entry.name)
            self._take(label, entry.path, real, entry.is_dir(), entry.is_file())

    def _follow(self, label: int, link: str) -> None:
        real = os.path.realpath(link)
        if real in self._seen or os.path.commonpath([real, self._base]) == real:
            self._leave_out("links to what is listed already")
        elif os.path.exists(link):
            self._take(label, link, real, os.path.isdir(link), os.path.isfile(link))
        else:
            self._leave_out("broken links")

    def _take(self, label: int, path: str, real: str, is_folder: bool, is_file: bool) -> None:
        if is_folder:
            self._seen.add(real)
            self._folders.append((label, path, real))
        elif not is_file:
            self._leave_out("neither files nor folders")
        elif os.path.splitext(path)[1].lower() not in SUFFIXES:
            self._leave_out("of another type")
        else:
            self._seen.add(real)
            self.listing.images.append((path, label))

    def _leave_out(self, why: str) -> None:
        self.listing.left_out[why] += 1
