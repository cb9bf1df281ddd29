"""Sets of uint8 images with labels: in memory, or files decoded on demand."""

import math
import os
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tdbench.config import DataConfig
from tdbench.errors import DataError, line_of


class BrokenImage(DataError):
    """An image file that cannot be decoded; its message is the same from a DataLoader's worker process."""

    def __init__(self, message: str) -> None:
        # A DataLoader rebuilds a worker's exception from its formatted traceback, which ends with type and message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class FolderImages(Dataset[Tensor]):
    """Image files, decoded on demand to uint8 (3, image_size, image_size).

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
                resized = functional.resize(image.convert("RGB"), [self.image_size], antialias=True)
        except Exception as error:  # Pillow's decoders raise errors of many types
            raise BrokenImage(
                f"image {path} cannot be decoded: {line_of(error, with_type=False)}; repair or remove it"
            ) from error
        return functional.pil_to_tensor(functional.center_crop(resized, [self.image_size, self.image_size]))

    def select(self, indices: Iterable[int]) -> "FolderImages":
        """Return the images at `indices`, still on disk."""
        return FolderImages([self.paths[index] for index in indices], self.image_size)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes: a uint8 tensor (N, C, H, W) or files decoded on demand, with int64 labels (N,)."""

    images: Tensor | FolderImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "ImageSet":
        """Return the items at `indices` (int64), in that order."""
        if isinstance(self.images, FolderImages):
            return ImageSet(self.images.select(indices.tolist()), self.labels[indices])
        return ImageSet(self.images[indices], self.labels[indices])


def decoded(images: FolderImages, num_workers: int, batch_size: int = 16) -> Iterator[Tensor]:
    """Yield the images of files in order, in batches, decoded by up to `num_workers` processes."""
    try:
        # Its own generator: a DataLoader otherwise draws from torch's global one, even without shuffling.
        yield from DataLoader(
            images,
            batch_size=batch_size,
            num_workers=min(num_workers, math.ceil(len(images) / batch_size)),
            generator=torch.Generator(),
        )
    except BrokenImage as error:
        # The exception and torch's frames form a cycle; left to the garbage collector, each worker costs 5 s.
        traceback.clear_frames(error.__traceback__)
        raise


def open_root(config: DataConfig) -> Path:
    """Return the folder of the data set's files, which may not exist yet.

    Raises:
        DataError: It is a file, or cannot be read.
    """
    root = Path(os.path.expanduser(config.root))  # Path.expanduser raises where there is no such user
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
