"""What becomes of a layer's output in the network: whether it reaches the scores, and its gradient comes back.

A few images go through the network with the layer as it is, with its input in place of its output, with noise on that,
and with the dropped units put back, each time with equal random numbers. So whatever differs in the scores is due to
the layer. The network is in training mode, but its batch norms and dropouts are in evaluation: the one would let each
sample see the others' masks, the other would add noise.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from tdbench.audit.taps import Replace, Tap, looked
from tdbench.training.batchnorm import averaging

MOST_BATCHES, MOST_IMAGES = 6, 8  # batches, and images of each, that are looked at
MOST_TRIES = 40  # forwards until a layer acts that takes part in few of the steps


@dataclass
class Passage:
    """What was seen of one layer's output, over all batches.

    Attributes:
        num_idle: Forwards in which the layer changed nothing.
        num_forwards: Forwards in which it changed something; in `num_used` the scores are others with noise on that.
        num_samples: Samples that were looked at; the scores of `num_reached` are others with noise on what the layer
            puts out.
        num_acted: Samples whose map the layer changed; the scores of `num_felt` of them are others without that.
        num_dropped: Samples that lost units which the scores depend on, as half of them in place shows; the scores of
            `num_missed` are others with these units put back.
        in_graph: A gradient could pass through the layer: the network does not run it without one.
        num_sent: Samples through which a gradient was sent; it came back to the layer's output in `num_back`.
        channels_back: (C,) the channels of the output to which any came back.
        goes_on: A gradient went on to the first trainable weights before the layer.
        deviation: The largest difference, as a share, of the gradient at the layer's input from mask × scale × that at
            its output; None: there was none to compare.
        num_again: Calls of the layer while gradients were computed; in `num_other` it put out something else.
        batch_norm: The first batch norm behind the layer, by its path; None: there is none.
        ratios: Of each batch: the ratios of mean and variance in training to those in evaluation, at the site, and at
            the input of that batch norm.
    """

    num_idle: int = 0
    num_forwards: int = 0
    num_used: int = 0
    num_samples: int = 0
    num_reached: int = 0
    num_acted: int = 0
    num_felt: int = 0
    num_dropped: int = 0
    num_missed: int = 0
    in_graph: bool = True
    num_sent: int = 0
    num_back: int = 0
    channels_back: Tensor | None = None
    goes_on: bool = True
    deviation: float | None = None
    num_again: int = 0
    num_other: int = 0
    batch_norm: str | None = None
    ratios: list[tuple[float | None, ...]] = field(default_factory=list)

    def ratio(self, number: int) -> float | None:
        """Return one of the four ratios, the mean over the batches that have it."""
        values = [value for ratios in self.ratios if (value := ratios[number]) is not None]
        return sum(values) / len(values) if values else None


def passages(
    model: nn.Module, layers: dict[str, nn.Module], batches: Sequence[tuple[Tensor, Tensor]], seed: int
) -> dict[str, Passage]:
    """Return what becomes of each layer's output; the network's mode is not restored.

    It is looked at in fp64, where the network has it: in fp32 a few units of a map may be less than rounding.
    """
    few = [images[:MOST_IMAGES] for images, _ in batches[:MOST_BATCHES]]
    try:
        return _passages(model.double(), layers, [images.double() for images in few], seed)
    except (RuntimeError, TypeError):  # a device without fp64, or code that is made for fp32
        return _passages(model.float(), layers, few, seed)
    finally:
        model.float()


def _passages(model: nn.Module, layers: dict[str, nn.Module], few: Sequence[Tensor], seed: int) -> dict[str, Passage]:
    found = {name: Passage() for name in layers}
    own = {module for layer in layers.values() for module in layer.modules()}
    with averaging(model):  # so that evaluation's statistics are those of these images
        with torch.no_grad():
            for images in few:
                model(images)
        model.train()
        for module in model.modules():
            if isinstance(module, (_BatchNorm, _DropoutNd)) and module not in own:
                module.eval()
        for number, images in enumerate(few):
            for name, layer in layers.items():
                with as_before(model):
                    note(found[name], model, layer, images, seed + MOST_TRIES * number)
            advance(model, images, seed + number)
    return found


def advance(model: nn.Module, images: Tensor, seed: int) -> None:
    """Let the network go on as after a forward, whatever it counts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        model(images)


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Put the network's buffers, and what its modules keep in plain attributes, back at the end."""
    plain = (bool, int, float, str, type(None))
    kept = [
        (module, {name: value for name, value in vars(module).items() if isinstance(value, plain)})
        for module in model.modules()
    ]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, values in kept:
            vars(module).update(values)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def note(passage: Passage, model: nn.Module, layer: nn.Module, images: Tensor, seed: int) -> None:
    """Pass some images through the network in these ways, and note what that shows of the layer."""
    for attempt in range(1 if passage.num_idle >= MOST_TRIES else MOST_TRIES):
        with as_before(model), looked(model, layer, images, seed + attempt, lambda x, out: x) as without:
            pass
        if without.x is None or without.out is None or not without.scores.isfinite().all():
            return
        if len(images) > 1 and not differs(without.scores[1:], without.scores[:1]).any():
            return  # another layer leaves nothing of the images
        x, out = without.x.detach(), without.out.detach()
        acted = differs(x, out)
        if acted.any():
            break
        passage.num_idle += 1
    else:
        return
    lost = (out == 0) & (x != 0)
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out)
    others: dict[str, Replace] = {
        "noisy": lambda x, out: out + noise,
        "half filled": lambda x, out: torch.where(lost, x / 2, out),  # so that nothing is 0 which might be mended
        "filled": lambda x, out: torch.where(lost, x, out),
    }
    scores = {}
    for name, replace in others.items():
        with as_before(model), looked(model, layer, images, seed + attempt, replace) as other:
            pass
        scores[name] = other.scores
    with looked(model, layer, images, seed + attempt, None, with_gradient=True) as tap:
        reached = differs(tap.scores, scores["noisy"])
        if reached.any():
            note_gradients(passage, tap, seed)
    seen = differs(tap.scores, scores["half filled"])
    passage.num_forwards += 1
    passage.num_used += bool(reached.any())
    passage.num_samples += len(x)
    passage.num_reached += int(reached.sum())
    passage.num_acted += int(acted.sum())
    passage.num_felt += int((acted & differs(tap.scores, without.scores)).sum())
    passage.num_dropped += int(seen.sum())
    passage.num_missed += int((seen & differs(tap.scores, scores["filled"])).sum())
    touched = (path for path, taken in tap.behind.items() if not torch.equal(taken, without.behind.get(path, taken)))
    passage.batch_norm = passage.batch_norm or next(touched, None)
    shifted, plain = (one.behind.get(passage.batch_norm or "") for one in (tap, without))
    behind = (None, None) if shifted is None or plain is None else ratios(shifted, plain)
    passage.ratios.append((*ratios(out, x), *behind))


def note_gradients(passage: Passage, tap: Tap, seed: int) -> None:
    """Send a gradient back from random weights of the scores, and note how it passes the layer."""
    x, out = tap.x, tap.out
    assert x is not None
    assert out is not None
    weights = torch.randn(tap.scores.shape, generator=torch.Generator().manual_seed(seed)).to(tap.scores)
    tap.in_backward = True
    for weight in tap.weights:
        weight.grad = None
    if tap.scores.requires_grad:
        try:
            (tap.scores * weights).sum().backward()
        except RuntimeError:  # of a network that changes its maps in place, or of a recomputation that cannot be
            return
    passage.num_again += tap.num_again
    passage.num_other += tap.num_other
    if not x.requires_grad and tap.num_again:  # a recomputation, which alone has a graph
        return
    passage.in_graph &= x.requires_grad or not tap.weights
    back = torch.zeros_like(out) if out.grad is None else out.grad
    passage.num_back += int(back.flatten(1).any(dim=1).sum())
    passage.num_sent += len(out)
    channels = back.transpose(0, 1).flatten(1).any(dim=1).cpu()
    passage.channels_back = channels if passage.channels_back is None else passage.channels_back | channels
    grads = [weight.grad for weight in tap.weights]
    passage.goes_on &= not grads or any(grad is not None and bool(grad.any()) for grad in grads)
    if x.grad is not None and out.grad is not None:
        # Of a product, out = mask · x, the one is (mask · out.grad) · x and the other out.grad · (mask · x).
        through, expected = x.grad * x.detach(), out.grad * out.detach()
        size = float(expected.abs().sum())
        if size > 0:
            deviation = float((through - expected).abs().sum()) / size
            passage.deviation = max(passage.deviation or 0.0, deviation)


def differs(one: Tensor, other: Tensor) -> Tensor:
    """Return for each sample whether two tensors (N, ...) differ anywhere."""
    return (one.detach() != other.detach()).flatten(1).any(dim=1)


def ratios(trained: Tensor, evaluated: Tensor) -> tuple[float | None, float | None]:
    """Return the ratios of mean and variance of (N, C, ...), over all channels; None where evaluation's is 0.

    Of the means it is the slope of a line through 0, the one channel's against the other's; of the variances that of
    their sums.
    """
    (mean, variance), (mean_eval, variance_eval) = (
        (x.mean(1), x.var(1, correction=0))
        for x in (one.cpu().double().transpose(0, 1).flatten(1) for one in (trained, evaluated))
    )
    square, total = float((mean_eval**2).sum()), float(variance_eval.sum())
    of_means = float((mean * mean_eval).sum()) / square if square > 0 else None
    return of_means, float(variance.sum()) / total if total > 0 else None
