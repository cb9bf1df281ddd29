"""Batches on the training device: random crop, flip and normalisation of a whole batch at a time.

A data set that fits stays on the device as uint8, already padded, and mirrored beside it where images are flipped. So
one gather picks images, crops and flips them, and another pass normalises them: a GPU gets two kernels for a batch.
Random choices are drawn on the CPU, an epoch at a time, from a generator of their own, so that runs of one seed see the
same images in the same order with the same crops, whatever the device or method, and after an interruption.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.config import RunConfig
from tdbench.data.augmentation import Augmentation, check_suits
from tdbench.data.images import ImageSet, StreamedImages
from tdbench.data.seeds import derive_seed
from tdbench.data.sources import LoadedData
from tdbench.errors import ConfigError

MIRRORED = 1024  # images at a time


@dataclass(frozen=True)
class _Draw:
    """The random choices of one epoch, an entry per image in the epoch's order."""

    image: Tensor  # (N,) int64, where it lies in what `TrainBatches` gathers from
    label: Tensor  # (N,) int64
    down: Tensor  # (N,) int64, crop offset in [0, 2 · padding]
    right: Tensor
    hole_row: Tensor  # (N,) int64, centre of Cutout's hole
    hole_col: Tensor

    def batch(self, number: int, size: int) -> "_Draw":
        part = slice(number * size, (number + 1) * size)
        return _Draw(*(getattr(self, field.name)[part] for field in fields(self)))

    def to(self, device: torch.device) -> "_Draw":
        choices = [getattr(self, field.name) for field in fields(self)]
        if device.type == "cuda":  # from pinned memory, a copy does not wait for the GPU to finish what it has
            choices = [choice.pin_memory() for choice in choices]
        return _Draw(*(choice.to(device, non_blocking=True) for choice in choices))


def cut_holes(images: Tensor, rows: Tensor, cols: Tensor, size: int) -> Tensor:
    """Return normalised images (B, C, H, W) with a square hole of 0, the mean, `size` wide, around each centre (B,).

    Cutout (arXiv 1708.04552): the hole is clipped at the border. As an augmentation it draws from the data's own
    generator, so that runs of one seed see the same holes, whatever their regularizer.
    """
    covered = []
    for centres, length in ((rows, images.shape[2]), (cols, images.shape[3])):
        offsets = torch.arange(length, device=images.device) - (centres[:, None] - size // 2)
        covered.append((offsets >= 0) & (offsets < size))
    hole = (covered[0][:, :, None] & covered[1][:, None, :]).unsqueeze(1)
    return torch.where(hole, 0.0, images)  # of their memory format; masked_fill gives NCHW


def copied(pixels: Tensor, beside: torch.cuda.Stream) -> Tensor:
    """Return a batch on a GPU, which gets it while it does what it was given before; the host does not wait for it."""
    with torch.cuda.stream(beside):
        there = pixels.pin_memory().to(beside.device, non_blocking=True)
    work = torch.cuda.current_stream(beside.device)
    work.wait_stream(beside)
    there.record_stream(work)  # until when its memory must not serve the next batch
    return there


class _Images:
    """An image set on the device, or streamed to it, and its normalisation."""

    def __init__(
        self, images: ImageSet, data: LoadedData, config: RunConfig, device: torch.device, layout: torch.memory_format
    ) -> None:
        self.device, self.layout, self.num_workers = device, layout, config.data.num_workers
        self.input_size = data.input_shape[1:]
        mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(data.std, device=device).view(1, -1, 1, 1)
        self._scale, self._shift = 1 / (255 * std), -mean / std
        self.pixels = images.images.to(device) if isinstance(images.images, Tensor) else images.images

    def normalise(self, pixels: Tensor) -> Tensor:
        """Map uint8 (B, C, H, W) to fp32 of mean 0 and deviation 1 per channel, in the run's memory format."""
        batch = torch.empty(pixels.shape, device=pixels.device, memory_format=self.layout)
        return torch.addcmul(self._shift, pixels, self._scale, out=batch)

    def resized(self, images: Tensor) -> Tensor:
        """Return normalised images in the size that the network takes, antialiased; themselves where they have it."""
        if images.shape[2:] == self.input_size:
            return images
        return F.interpolate(images, self.input_size, mode="bilinear", antialias=True)

    def stream(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """Yield uint8 batches of a set that is not resident."""
        assert isinstance(self.pixels, StreamedImages)
        beside = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        for pixels in self.pixels.select(order.tolist()).batches(self.num_workers, batch_size):
            yield pixels.to(self.device) if beside is None else copied(pixels, beside)


class TrainBatches:
    """The training batches of each epoch; images that do not fill a last batch are left out of that epoch.

    Args:
        data: The images.
        config: The run.
        device: Where the batches are made.
        layout: Their memory format.
        share: (index, count): the share of every batch made here, where several processes train one network.

    Raises:
        ConfigError: The batch size or an augmentation does not suit the images, or the batch size the processes.
    """

    def __init__(
        self,
        data: LoadedData,
        config: RunConfig,
        device: torch.device,
        layout: torch.memory_format,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.batch_size, self.num_images, self.seed = config.training.batch_size, len(data.train), config.seed
        self.share, self.num_shares = share
        self.share_size = self.batch_size // self.num_shares
        if self.batch_size % self.num_shares:
            raise ConfigError(
                f"training.batch_size must be a multiple of {self.num_shares}, the number of processes, each of which "
                f"takes its share of every batch, got {self.batch_size}"
            )
        if self.batch_size > self.num_images:
            raise ConfigError(
                f"training.batch_size must be at most {self.num_images}, the number of training images, "
                f"got {self.batch_size}; give --batch-size"
            )
        side = data.image_shape[1]
        padding = config.augment.crop_padding
        self.padding = (0 if config.augment.random_resized_crop else side // 8) if padding is None else padding
        if self.padding > side:
            raise ConfigError(f"augment.crop_padding must be at most {side}, the images' side, got {self.padding}")
        if config.augment.cutout > side:
            raise ConfigError(f"augment.cutout must be at most {side}, the images' side, got {config.augment.cutout}")
        self.flip = data.source.flip if config.augment.flip is None else config.augment.flip
        self.side, self.hole_size = side, config.augment.cutout
        check_suits(config.augment, data.image_shape[0], data.num_classes, self.share_size)
        self._augmentation = Augmentation(config.augment, config.seed, data.image_shape[1:], data.num_classes)
        self._labels = data.train.labels.cpu()
        self._images = _Images(data.train, data, config, device, layout)
        self._crops: Tensor | None = None
        if isinstance(self._images.pixels, Tensor):
            self._crops = self._all_crops(self._images.pixels)
            del self._images.pixels  # the padded copy is all that is needed

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    def epoch(self, epoch: int, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images fp32 (B, C, H, W), labels (B,)), this process's share of batches `first` to `last` - 1.

        Where images are mixed, the labels are (B, K), the share of each class.
        """
        order, draw = self._draw(epoch)
        draw = draw.to(self._images.device)
        parts = (
            (number, draw.batch(number * self.num_shares + self.share, self.share_size))
            for number in range(first, last)
        )
        if self._crops is not None:
            for number, part in parts:
                yield self._batch(self._crops, part, epoch, number)
            return
        rest = order[first * self.batch_size : last * self.batch_size]
        rest = rest.view(-1, self.num_shares, self.share_size)[:, self.share].flatten()
        for (number, part), pixels in zip(parts, self._images.stream(rest, self.share_size), strict=True):
            yield self._batch(self._all_crops(pixels), part, epoch, number)

    def _draw(self, epoch: int) -> tuple[Tensor, _Draw]:
        """Return the order of the images and all that is drawn for each of them."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batches", epoch))
        order = torch.randperm(self.num_images, generator=generator)
        down, right = torch.randint(2 * self.padding + 1, (2, self.num_images), generator=generator)
        flip = torch.rand(self.num_images, generator=generator) < (0.5 if self.flip else 0.0)
        # Always drawn, so that runs with and without holes have the same order, crops and flips.
        hole_row, hole_col = torch.randint(self.side, (2, self.num_images), generator=generator)
        right = torch.where(flip, 2 * self.padding - right, right)  # a mirrored crop is one of the mirrored image
        # Of a streamed set, each batch is gathered from for itself.
        num_there = self.num_images if self._crops is not None else self.share_size
        image = (order if self._crops is not None else torch.arange(self.num_images) % num_there) + num_there * flip
        return order, _Draw(image, self._labels[order], down, right, hole_row, hole_col)

    def _all_crops(self, pixels: Tensor) -> Tensor:
        """Return a view (N, C, offsets down, offsets right, H, W) of every crop of the zero-padded images.

        Where images are flipped, N more follow, mirrored.
        """
        num_images, num_channels, height, width = pixels.shape
        sides = height + 2 * self.padding, width + 2 * self.padding
        padded = pixels.new_zeros(num_images * (1 + self.flip), num_channels, *sides)
        inner = padded[:, :, self.padding : self.padding + height, self.padding : self.padding + width]
        inner[:num_images] = pixels
        if self.flip:  # a part at a time, each of which is copied once more
            for part, there in zip(pixels.split(MIRRORED), inner[num_images:].split(MIRRORED), strict=True):
                there.copy_(part.flip(3))
        return padded.unfold(2, height, 1).unfold(3, width, 1)

    def _batch(self, crops: Tensor, draw: _Draw, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        pixels = crops[draw.image, :, draw.down, draw.right]
        first = number * self.batch_size + self.share * self.share_size
        images = self._images.normalise(self._augmentation.pixels(pixels, epoch, first))
        images = self._augmentation.images(images, epoch, first)
        if self.hole_size:
            images = cut_holes(images, draw.hole_row, draw.hole_col, self.hole_size)
        images, labels = self._augmentation.mixed(images, draw.label, epoch, number)
        return self._images.resized(images), labels


class TestBatches:
    """The test images, or others, in order, in batches of equal size: the last one is filled up with the first images.

    Several processes take the batches in turn; a process can be left without one.
    """

    __test__ = False  # keeps pytest from collecting it

    def __init__(
        self,
        data: LoadedData,
        config: RunConfig,
        device: torch.device,
        layout: torch.memory_format,
        share: tuple[int, int] = (0, 1),
        images: ImageSet | None = None,
    ) -> None:
        tested = data.test if images is None else images
        self.num_images = len(tested)
        self._share, self._num_shares = share
        num_batches = -(-self.num_images // (2 * config.training.batch_size // self._num_shares))
        self.batch_size = -(-self.num_images // num_batches)
        order = torch.arange(num_batches * self.batch_size)
        is_counted = order < self.num_images
        parts = slice(self._share, None, self._num_shares)
        self._order = (order % self.num_images).view(num_batches, self.batch_size)[parts]
        self._num_counted = is_counted.view(num_batches, self.batch_size)[parts].sum(1).tolist()
        self._images = _Images(tested, data, config, device, layout)
        self._labels = tested.labels.to(device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield (images, labels, number of images that count), this process's share of the batches."""
        images = self._images
        order = self._order.to(images.device)
        pixels: Iterator[Tensor]
        if isinstance(images.pixels, Tensor):
            pixels = (images.pixels[part] for part in order)
        else:
            pixels = images.stream(self._order.flatten(), self.batch_size)
        for part, batch, num_counted in zip(order, pixels, self._num_counted, strict=True):
            yield images.resized(images.normalise(batch)), self._labels[part], num_counted
