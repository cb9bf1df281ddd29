"""Sets of uint8 images with labels: in memory, or files decoded on demand."""

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tdbench.config import DataConfig
from tdbench.errors import DataError, line_of
from tdbench.user_code import expanded

if TYPE_CHECKING:
    from PIL import Image

AHEAD = 8  # images for each thread to decode before they are asked for
_SIXTEEN_BITS = ("PNG", "PPM")  # formats of which some versions of Pillow open 16-bit grey with mode I
_WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


class BrokenImage(DataError):
    """An image file that cannot be decoded."""


class FolderImages(Dataset[Tensor]):
    """Image files, decoded on demand to uint8 (3, image_size, image_size); see `upright_rgb`.

    The shorter side is resized to `image_size`, antialiased, and the longer one cropped at its centre.

    Raises:
        BrokenImage: On access to a file that cannot be decoded.
    """

    def __init__(self, paths: list[str], image_size: int) -> None:
        self.paths = paths
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image
        from torchvision.transforms import functional

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                resized = functional.resize(upright_rgb(image), [self.image_size], antialias=True)
        except Exception as error:  # Pillow's decoders raise errors of many types
            raise BrokenImage(
                f"image {path} cannot be decoded: {line_of(error, with_type=False)}; repair or remove it"
            ) from error
        return functional.pil_to_tensor(functional.center_crop(resized, [self.image_size, self.image_size]))

    def select(self, indices: Iterable[int]) -> "FolderImages":
        """Return the images at `indices`, still on disk."""
        return FolderImages([self.paths[index] for index in indices], self.image_size)


def upright_rgb(image: "Image.Image") -> "Image.Image":
    """Return an image as every viewer shows it: upright, in 8-bit RGB, and on white where it is transparent.

    16-bit grey, as depth maps, microscopes and X-rays have it, keeps its upper 8 bits.

    Raises:
        ValueError: Its values have no known range: 32-bit integers and floats.
    """
    import numpy as np
    from PIL import Image, ImageOps

    is_sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS)
    image = ImageOps.exif_transpose(image)
    if is_sixteen_bit:
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
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
    """Images and their classes: a uint8 tensor (N, C, H, W) or files decoded on demand, with int64 labels (N,).

    Attributes:
        left_out: Why files beside them do not count, to how many.
    """

    images: Tensor | FolderImages
    labels: Tensor
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSet":
        """Return the items at `indices` (int64), in that order."""
        if isinstance(self.images, FolderImages):
            return replace(self, images=self.images.select(indices.tolist()), labels=self.labels[indices])
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def decoded(images: FolderImages, num_workers: int, batch_size: int = 16) -> Iterator[Tensor]:
    """Yield the images of files in order, in batches, decoded ahead by up to `num_workers` threads.

    Threads do what a DataLoader's processes would, since Pillow lets go of the interpreter's lock while it decodes and
    resizes; and they begin at once, end with the process, and need neither sockets nor shared memory.

    Raises:
        BrokenImage: A file cannot be decoded.
    """
    from PIL import Image

    batches = batched(range(len(images)), batch_size)
    if num_workers == 0:
        yield from (torch.stack([images[index] for index in batch]) for batch in batches)
        return
    Image.init()  # all formats, before threads look for one at the same time
    pool = ThreadPoolExecutor(num_workers, "tdbench-decode")
    try:
        ahead: deque[list[Future[Tensor]]] = deque()
        num_ahead = 1 + math.ceil(AHEAD * num_workers / batch_size)
        for batch in batches:
            ahead.append([pool.submit(images.__getitem__, index) for index in batch])
            if len(ahead) > num_ahead:
                yield torch.stack([one.result() for one in ahead.popleft()])
        while ahead:
            yield torch.stack([one.result() for one in ahead.popleft()])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batched(indices: range, size: int) -> Iterator[range]:
    """Yield consecutive parts of a range."""
    return (indices[start : start + size] for start in range(0, len(indices), size))


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
