"""Image folders decoded once: uint8 pixels in a file that every run maps into memory.

A cache is a folder with `images-KEY.npy`, the pixels (N, 3, image_size, image_size) in the order of the listing, and
`index.json`: what they were made of, the key, and which images are broken. The one is written after the other, each
whole or not at all, by one process at a time. The pixels bear their key in their name, so that an index never meets
others than its own.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from tdbench.config.fingerprints import name_of
from tdbench.data.images import AHEAD, BrokenImage, FolderImages, in_order, make_pillow_ready
from tdbench.errors import FolderError, InUse
from tdbench.store.files import held, read_file, remove_unfinished, to_json, write_atomically, writing_whole
from tdbench.store.progress import tell

PIXELS, INDEX = "images-{}.npy", "index.json"
FORM = 1  # of a cache: it rises when the same files are decoded or kept in another way
TELL_EVERY_S = 0.1
STALLED_S = 120.0  # without a byte more, whoever writes a cache is not waited for any longer

Broken = dict[int, str]  # number of an image to why it cannot be decoded


@dataclass(frozen=True)
class Decoded:
    """All images of a listing: uint8 (N, 3, image_size, image_size), those of broken ones black."""

    pixels: Tensor
    broken: Broken = field(default_factory=dict)


def key_of(images: FolderImages, folder: Path, content: object) -> str:
    """Return what changes with the files that images are decoded from, with their size, and with Pillow.

    Args:
        images: The files.
        folder: Where they lie; where that is does not count.
        content: What is known of what is in the files, as JSON; their names, sizes and times are looked at here.

    Raises:
        OSError: A file is gone.
    """
    marks = []
    for path in images.paths:
        at = os.stat(path)
        marks.append([name_of(path, folder), at.st_size, at.st_mtime_ns])
    told = [FORM, PIL.__version__, images.image_size, images.resize_size, content, marks]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def open_cache(cache: Path, key: str, images: FolderImages) -> Decoded | None:
    """Return decoded images, mapped into memory; None where there are none, or others, or only a part of them."""
    try:
        index = json.loads(read_file(cache / INDEX))
        if index["key"] != key:
            return None
        pixels = map_pixels(cache, key)
        if pixels.shape != shape_of(images) or pixels.dtype != torch.uint8 or not pixels.is_contiguous():
            return None
        return Decoded(pixels, {int(number): str(why) for number, why in index["broken"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def map_pixels(cache: Path, key: str) -> Tensor:
    """Return the pixels of a cache with this key, mapped into memory; what is changed there does not reach the file.

    Raises:
        OSError, ValueError, TypeError: The file is not there, is cut short, or is no array that torch knows.
    """
    return torch.from_numpy(np.lib.format.open_memmap(cache / PIXELS.format(key), mode="c"))


def build_cache(cache: Path, key_now: Callable[[], str], images: FolderImages) -> Decoded:
    """Decode images into a cache, or wait for another process that does.

    Args:
        cache: The folder of the cache.
        key_now: Returns the key of the files as they are now.
        images: The files.

    Raises:
        OSError, FolderError, NotImplementedError: The cache cannot be written, or not be locked.
        DataError: A file cannot be read.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as until_end:
        hold(cache, until_end)
        key = key_now()
        if found := open_cache(cache, key, images):
            return found
        remove_unfinished(cache)  # what a builder that was killed has left
        with writing_whole(cache / PIXELS.format(key)) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape_of(images)}
            np.lib.format.write_array_header_1_0(file, header)
            broken = decode(images, lambda number, image: file.write(image.numpy().tobytes()))
        if key_now() == key:  # else the next run finds what has become of the files
            write_atomically(cache / INDEX, to_json({"key": key, "broken": broken}).encode())
        pixels = map_pixels(cache, key)
        for other in cache.glob(PIXELS.format("*")):
            if other.name != PIXELS.format(key):
                with suppress(OSError):  # a run that is mapping it may hinder that
                    other.unlink()
        return Decoded(pixels, broken)


def hold(cache: Path, until_end: ExitStack) -> None:
    """Hold a cache for this process, once no other does that goes on writing it.

    Raises:
        WriteError, NotImplementedError: It cannot be written, or not be locked.
        FolderError: Another process holds it, and has written nothing for STALLED_S.
    """
    with suppress(InUse):
        until_end.enter_context(held(cache))
        return
    tell(0.0, f"waiting for another process that writes {cache}")
    before = -1
    while (now := written(cache)) != before:
        before = now
        with suppress(InUse):
            until_end.enter_context(held(cache, STALLED_S))
            return
    raise FolderError(f"another process holds it, and has written nothing for {STALLED_S:g} s")


def written(cache: Path) -> int:
    """Return how many bytes the files in a cache have together, unfinished ones too."""
    total = 0
    for path in cache.iterdir():
        with suppress(FileNotFoundError):  # one that has become whole has another name
            total += path.stat().st_size
    return total


def decode(images: FolderImages, keep: Callable[[int, Tensor], object] = lambda number, image: None) -> Broken:
    """Decode images with all cores, tell of the progress, and return which cannot be decoded.

    Args:
        images: The files.
        keep: Takes each image in order, with its number; a broken one is black.

    Raises:
        DataError: A file cannot be read.
    """
    make_pillow_ready()
    broken: Broken = {}
    black = torch.zeros(shape_of(images)[1:], dtype=torch.uint8)
    num_images, told = len(images), 0.0
    num_threads = num_cores()
    for number, image in enumerate(in_order(images.attempt, range(num_images), num_threads, AHEAD * num_threads)):
        if isinstance(image, BrokenImage):
            broken[number] = image.why
        keep(number, black if isinstance(image, BrokenImage) else image)
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            tell(number / num_images, f"decoding {num_images:,} images")
    tell(1.0, f"decoding {num_images:,} images")
    return broken


def shape_of(images: FolderImages) -> tuple[int, int, int, int]:
    """Return (N, C, H, W) of all images together."""
    return len(images), 3, images.image_size, images.image_size


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
