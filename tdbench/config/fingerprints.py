"""Fingerprints of the files of a data set: their names and contents, read once and remembered while the files stay."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tdbench.store.files import cache_folder, open_file, read_file, write_atomically
from tdbench.user_code import SETTLED_NS

WHOLE_UP_TO = 2**30  # bytes of a data set; of the files of a larger one, both ends are read
END = 4096  # bytes of such an end
FORM = 1  # of what is remembered: it rises when that is worked out in another way


def fingerprints(root: Path, files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return, for each part of a data set, the number of its files, their size, and a digest of names and contents.

    Args:
        root: The folder; where it lies does not count.
        files: Part to paths under the root.

    Raises:
        OSError: A file cannot be read.
    """
    sizes = {path: os.stat(path).st_size for paths in files.values() for path in paths}
    is_whole = sum(sizes.values()) <= WHOLE_UP_TO

    def work_out() -> dict[str, str]:
        told = {}
        for part, paths in files.items():
            seen = hashlib.sha256()
            for path in paths:
                seen.update(json.dumps([name_of(path, root), bytes_digest(path, is_whole)]).encode())
            size = sum(sizes[path] for path in paths)
            told[part] = f"{len(paths)} file(s) of {size:,} bytes ({seen.hexdigest()[:12]})"
        return told

    return remembered(root, list(sizes), work_out)


def name_of(path: str, folder: Path) -> str:
    """Return the path of a file as seen from a folder; `os.path.relpath` would ask for the working folder each time."""
    start = os.path.join(folder, "")
    return path[len(start) :] if path.startswith(start) else os.path.relpath(path, folder)


def remembered(root: Path, paths: Sequence[str], work_out: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return what is worked out from files, anew where one has other names, sizes, times or inodes than the last time.

    Raises:
        OSError: A file cannot be read.
    """
    begun = time.time_ns()
    stats = [os.stat(path) for path in paths]
    marks = [
        [name_of(path, root), at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino]
        for path, at in zip(paths, stats, strict=True)
    ]
    stamp, memory = hashlib.sha256(json.dumps([FORM, marks]).encode()).hexdigest(), memory_of(root)
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(read_file(memory))
        if kept["stamp"] == stamp:
            return {str(part): str(told) for part, told in kept["told"].items()}
    told = work_out()
    if all(at.st_ctime_ns < begun - SETTLED_NS for at in stats):
        with suppress(Exception):  # no home, a full disk, no permission: the next look reads again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(memory, json.dumps({"stamp": stamp, "told": told}).encode())
    return told


def fingerprint(path: str) -> str:
    """Return the size of a file, and a digest of all its bytes."""
    size, digest = bytes_digest(path, is_whole=True).split()
    return f"{int(size):,} bytes ({digest[:12]})"


def bytes_digest(path: str, is_whole: bool) -> str:
    """Return the size of a file and a digest of its bytes, or of its two ends."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if is_whole:
            seen = hashlib.file_digest(file, "sha256")
        else:
            seen = hashlib.sha256(file.read(END))
            file.seek(max(END, size - END))
            seen.update(file.read(END))
        return f"{size} {seen.hexdigest()}"


def memory_of(root: Path) -> Path:
    """Return the file that remembers the fingerprints of a data set, in the user's cache folder."""
    return cache_folder() / f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]}.json"
