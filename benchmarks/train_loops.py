"""Images per second of two training loops that `tdbench train` is measured against, from the median step, as JSON.

    python benchmarks/train_loops.py plain resnet8 64 300

`bare` repeats the step on one batch that stays on the device, in channels_last: what a loop can reach at most. `plain`
is the loop that people write: a torchvision data set and its transforms in workers of a DataLoader, and `.item()` in
each step. Both train the same network in fp32, on a CPU, with the same optimizer; a step of `plain` is measured from
the end of the one before, so that waiting for its batch counts.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import chain, repeat

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import VisionDataset
from torchvision.transforms import Compose, Normalize, RandomCrop, ToTensor

from tdbench import load_config
from tdbench.data.sources import load_data
from tdbench.models.build import build

NUM_WORKERS = 2
WARM_UP = 5  # steps


class Digits(VisionDataset):
    """The embedded images as a data set of torchvision gives them: PIL images, passed through transforms."""

    def __init__(self, transform: Compose) -> None:
        super().__init__(transform=transform)
        train = load_data(load_config().data, seed=0).train
        self.images, self.labels = train.images[:, 0].numpy(), train.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def batches(batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return shuffled batches without end, made by workers."""
    images = Digits(Compose([RandomCrop(32, padding=4), ToTensor(), Normalize((0.5,), (0.5,))]))
    loader = DataLoader(
        images, batch_size, shuffle=True, drop_last=True, num_workers=NUM_WORKERS, persistent_workers=True
    )
    return chain.from_iterable(iter(loader) for _ in repeat(None))


def resident(batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return one batch again and again."""
    images, labels = next(batches(batch_size))
    return repeat((images.contiguous(memory_format=torch.channels_last), labels))


def main() -> None:
    loop, name = sys.argv[1:3]
    batch_size, num_steps = map(int, sys.argv[3:])
    torch.manual_seed(0)
    model, times = build(name, num_classes=10, in_channels=1).train(), []
    if loop == "bare":
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    source, total = (resident if loop == "bare" else batches)(batch_size), 0.0
    for _ in range(WARM_UP + num_steps):
        begun = time.perf_counter()
        images, labels = next(source)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if loop == "plain":
            total += loss.item()
        times.append(time.perf_counter() - begun)
    print(json.dumps({"train_img_per_s": batch_size / statistics.median(times[WARM_UP:]), "wall_s": sum(times)}))


if __name__ == "__main__":
    main()
