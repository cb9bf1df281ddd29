"""What a network makes of the test images: loss, error and calibration, and the outcome of every image."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdbench.data.batches import TestBatches
from tdbench.store.folders import Predictions
from tdbench.training.hardware import Hardware
from tdbench.training.parallel import Processes

NUM_BINS = 15  # of equal width, of the confidence


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of all test images.

    Attributes:
        loss: Mean cross-entropy.
        error_pct: Share of the images that are not hit, in per cent.
        ece_pct: Expected calibration error (Guo et al. 2017, arXiv 1706.04599) over 15 bins, in per cent.
        brier: Mean over the images of the squared distance of the probabilities from the truth, from 0 to 2.
        predictions: The outcome of each image, in the test set's order.
    """

    loss: float
    error_pct: float
    ece_pct: float
    brier: float
    predictions: Predictions


@torch.no_grad()
def evaluate(model: nn.Module, batches: TestBatches, hardware: Hardware, processes: Processes) -> Evaluation:
    """Return what the network, in evaluation mode, makes of the test images; each process takes its share of them."""
    processes.unify_buffers(model)
    model.eval()
    losses, outcomes = [], []
    for images, labels, num_counted in batches:
        with hardware.autocast():
            logits = model(hardware.of_one_size(images)).float()
        logits, labels = logits[:num_counted], labels[:num_counted]
        losses.append(F.cross_entropy(logits, labels, reduction="sum"))
        outcomes.append(outcome_of(logits, labels))
    loss = sum(torch.stack(losses).tolist()) if losses else 0.0  # of several processes, one may have no batch
    sizes = [len(outcome) for outcome in outcomes]
    read = torch.cat(outcomes).cpu().split(sizes) if outcomes else ()  # the device is waited for once
    shares = processes.gather((loss, [part.clone() for part in read]))  # a part would be sent with all the others
    label, predicted, truth, confidence, distance = torch.cat(list(in_order([own for _, own in shares]))).unbind(1)
    hits = predicted == label
    num_images = batches.num_images
    return Evaluation(
        loss=sum(loss for loss, _ in shares) / num_images,
        error_pct=error_pct(int(hits.sum()), num_images),
        ece_pct=ece_pct(confidence, hits),
        brier=float(distance.double().mean()),
        predictions=Predictions(label.int().numpy(), predicted.int().numpy(), truth.numpy()),
    )


def outcome_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N, 5) label, predicted class, the probabilities of the one and of the other, squared distance."""
    probabilities = logits.softmax(1)
    truth = probabilities.gather(1, labels[:, None]).squeeze(1)
    distance = probabilities.square().sum(1) - 2 * truth + 1
    return torch.stack([labels, logits.argmax(1), truth, probabilities.amax(1), distance], dim=1).float()


def in_order(shares: list[list[Tensor]]) -> Iterator[Tensor]:
    """Yield the batches in the test set's order; the processes took them in turn."""
    for batches in zip_longest(*shares):
        yield from (batch for batch in batches if batch is not None)


def ece_pct(confidence: Tensor, hits: Tensor) -> float:
    """Return the expected calibration error: the mean distance of confidence and hit rate over bins of confidence."""
    bins = (confidence.double() * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins, confidence.double() - hits.double())
    return 100 * float(gaps.abs().sum()) / len(hits)


def error_pct(num_hits: int, num_images: int) -> float:
    """Return the share of images that were not hit, in per cent."""
    return 100 * (num_images - num_hits) / num_images
