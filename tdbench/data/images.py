"""Sets of uint8 images with labels: in memory, in a file that is mapped into it, or files decoded on demand."""

import logging
import os
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tdbench.config import DataConfig
from tdbench.errors import DataError, line_of
from tdbench.store.files import open_file
from tdbench.user_code import expanded

if TYPE_CHECKING:
    from PIL import Image

AHEAD = 8  # images for each thread to decode before they are asked for
_SIXTEEN_BITS = ("PNG", "PPM")  # formats of which some versions of Pillow open 16-bit grey with mode I
_BITS_PER_SAMPLE = 258  # a tag of TIFFs
_PILLOW = r"PIL(\.|$)"
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")

Item = TypeVar("Item")
Result = TypeVar("Result")


class BrokenImage(DataError):
    """An image that cannot be decoded.

    Attributes:
        why: In a line, without the name of the image.
    """

    def __init__(self, name: str, why: str) -> None:
        self.why = why
        super().__init__(f"image {name} cannot be decoded: {why}; repair or remove it")


class StreamedImages(Dataset[Tensor]):
    """Images that are fetched when they are needed, each uint8 (3, image_size, image_size)."""

    image_size: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def select(self, indices: Iterable[int]) -> Self:
        """Return the images at `indices`, in that order, still not in memory."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """Return these images and then those of another set of the kind."""

    @abstractmethod
    def batches(self, num_workers: int, batch_size: int) -> Iterator[Tensor]:
        """Yield the images in order, in batches, fetched ahead by up to `num_workers` threads."""


class FolderImages(StreamedImages):
    """Image files, decoded on demand; see `upright_rgb`, and `squared`.

    Raises:
        BrokenImage: On access to a file that cannot be decoded.
        DataError: On access to one that cannot be read.
    """

    def __init__(self, paths: list[str], image_size: int, resize_size: int | None = None) -> None:
        self.paths = paths
        self.image_size = image_size
        self.resize_size = resize_size or image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        path = self.paths[index]
        try:
            file = open_file(path)
        except OSError as error:
            raise DataError(f"image {path} cannot be read: {line_of(error, with_type=False)}") from error
        with file:
            try:
                return squared(Image.open(file), self.image_size, self.resize_size)
            except MemoryError:  # which says nothing about the file
                raise
            except UnidentifiedImageError as error:
                raise BrokenImage(path, "it is no image of a format that Pillow reads") from error
            except Exception as error:  # Pillow's decoders raise errors of many types
                raise BrokenImage(path, line_of(error, with_type=False).rstrip(".")) from error

    def select(self, indices: Iterable[int]) -> "FolderImages":
        return FolderImages([self.paths[index] for index in indices], self.image_size, self.resize_size)

    def joined(self, other: "FolderImages") -> "FolderImages":
        return FolderImages([*self.paths, *other.paths], self.image_size, self.resize_size)

    def attempt(self, index: int) -> Tensor | BrokenImage:
        """Return an image, or why there is none.

        Raises:
            DataError: The file cannot be read.
        """
        try:
            return self[index]
        except BrokenImage as broken:
            return broken

    def batches(self, num_workers: int, batch_size: int) -> Iterator[Tensor]:
        """Yield the images in order, in batches, decoded ahead by up to `num_workers` threads.

        Threads do what a DataLoader's processes would, since Pillow lets go of the interpreter's lock while it decodes
        and resizes; and they begin at once, end with the process, and need neither sockets nor shared memory.

        Raises:
            BrokenImage: A file cannot be decoded.
            DataError: One cannot be read.
        """
        make_pillow_ready()
        images = in_order(self.__getitem__, range(len(self)), num_workers, batch_size + AHEAD * num_workers)
        while batch := list(islice(images, batch_size)):
            yield torch.stack(batch)


class MappedImages(StreamedImages):
    """Decoded images in files that are mapped into memory, of which the system keeps what it has room for.

    Args:
        pixels: What the files hold, each uint8 (N, 3, image_size, image_size).
        places: (n, 2), int64: for each image here, the file and the number in it.
    """

    def __init__(self, pixels: list[Tensor], places: Tensor) -> None:
        self.pixels, self.places = pixels, places
        self.image_size = pixels[0].shape[2]

    @classmethod
    def of(cls, pixels: Tensor) -> "MappedImages":
        """Return all images of one file, in their order."""
        numbers = torch.arange(len(pixels))
        return cls([pixels], torch.stack([torch.zeros_like(numbers), numbers], 1))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        file, number = self.places[index].tolist()
        return self.pixels[file][number]

    def select(self, indices: Iterable[int]) -> "MappedImages":
        return MappedImages(self.pixels, self.places[torch.tensor(list(indices), dtype=torch.int64)])

    def joined(self, other: "MappedImages") -> "MappedImages":
        moved = other.places + torch.tensor([len(self.pixels), 0])
        return MappedImages([*self.pixels, *other.pixels], torch.cat([self.places, moved]))

    def fetch(self, places: Tensor) -> Tensor:
        """Return the images at places (n, 2)."""
        return torch.stack([self.pixels[file][number] for file, number in places.tolist()])

    def batches(self, num_workers: int, batch_size: int) -> Iterator[Tensor]:
        return in_order(self.fetch, self.places.split(batch_size), num_workers, num_workers)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int, num_ahead: int
) -> Iterator[Result]:
    """Yield what a function makes of items, in their order; up to `num_ahead` of them before they are asked for.

    Args:
        function: Raises where it is asked for.
        items: What it takes.
        num_threads: Those that work ahead; 0: none do.
        num_ahead: Results that may wait.
    """
    if num_threads == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(num_threads, "tdbench-images")
    try:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > num_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def make_pillow_ready() -> None:
    """Let Pillow know all its formats, before threads look for one at the same time, and keep its own words back.

    Its warnings are about images that are decoded all the same: very large ones, odd palettes, damaged EXIF. What it
    logs of others, the error says that it raises.
    """
    from PIL import Image

    Image.init()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    if not any(getattr(module, "pattern", None) == _PILLOW for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW)  # for good: threads share the filters


def squared(image: "Image.Image", image_size: int, resize_size: int) -> Tensor:
    """Return an image as uint8 (3, image_size, image_size).

    Its shorter side is resized to `resize_size`, bilinearly and antialiased, and the middle is cropped, as in
    torchvision's presets.

    Raises:
        ValueError: Its values have no known range.
    """
    from torchvision.transforms import functional

    resized = functional.resize(upright_rgb(image), [resize_size], antialias=True)
    return functional.pil_to_tensor(functional.center_crop(resized, [image_size, image_size])).contiguous()


def upright_rgb(image: "Image.Image") -> "Image.Image":
    """Return an image as every viewer shows it: upright, in 8-bit RGB, and on white where it is transparent.

    16-bit grey, as depth maps, microscopes and X-rays have it, keeps its upper 8 bits, as 12-bit grey does.

    Raises:
        ValueError: Its values have no known range: 32-bit integers and floats.
    """
    import numpy as np
    from PIL import Image, ImageOps

    is_sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS)
    num_bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    image = ImageOps.exif_transpose(image)
    if is_sixteen_bit:
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = np.where(grey == image.info.get("transparency"), 255, grey >> (num_bits - 8))
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have no known range (Pillow's mode {image.mode}); convert it to 8 or 16 bits")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes: a uint8 tensor (N, C, H, W) or images that are streamed, with int64 labels (N,).

    Attributes:
        left_out: Why files beside them do not count, to how many.
    """

    images: Tensor | StreamedImages
    labels: Tensor
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSet":
        """Return the items at `indices` (int64), in that order."""
        if isinstance(self.images, StreamedImages):
            return replace(self, images=self.images.select(indices.tolist()), labels=self.labels[indices])
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def open_root(config: DataConfig) -> Path:
    """Return the folder of the data set's files, which may not exist yet.

    Raises:
        DataError: It is a file, or cannot be read.
    """
    root = Path(expanded(config.root))
    try:
        os.listdir(root)
        os.stat(os.path.join(root, os.curdir))  # fails where names can be listed but no file opened
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.root must be a folder that can be read, got {root}: {line_of(error, with_type=False)}"
        ) from error
    return root
