"""Measures the module at each site, of any kind, on the input that a training forward gives it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdbench.audit.passage import Passage, passages
from tdbench.audit.site import Draw, Mask
from tdbench.models.insertion import Insertion
from tdbench.regularizers.base import DropMeter, Regularizer
from tdbench.regularizers.mask import mask_of

MOST_UNITS = 2**19  # of a batch that are measured in a draw; the first samples represent the others
MOST_MAPS = 64  # of a draw in which blocks are measured
NUM_TRIES = 500  # before a layer that has dropped nothing is judged to be off


class Call(NamedTuple):
    """One call of a layer by the network."""

    is_training: bool
    x: Tensor
    is_identity: bool


@dataclass
class Observed:
    """The observations at one site."""

    layer: nn.Module | None
    calls_train: list[Call] = field(default_factory=list)  # of the last forward that called it
    num_without_call: int = 0  # training forwards
    calls_eval: list[Call] = field(default_factory=list)
    x: Tensor | None = None  # (N, C, H, W), the layer's input in the last training forward that called it
    batches: list[tuple[Draw, ...]] = field(default_factory=list)
    start: tuple[Draw, ...] = ()
    num_counted: int | None = None
    is_off: bool = False
    is_random: bool = False
    claims_random: bool = False  # a layer newly built from the configuration draws random numbers
    claimed: list[tuple[Draw, ...]] = field(default_factory=list)  # what such a layer draws, by batch
    passage: Passage | None = None

    def gradient(self) -> Literal["yes", "no", "none"]:
        """Return whether a gradient has reached the layer's own parameters."""
        trained = [weight for weight in self.layer.parameters() if weight.requires_grad] if self.layer else []
        if not trained:
            return "none"
        return "yes" if any(weight.grad is not None and weight.grad.any() for weight in trained) else "no"

    def mask(self) -> Mask | None:
        """Return the masks that were drawn; None where the layer was not called in training."""
        if not self.batches:
            return None
        return Mask(
            tuple(self.batches),
            self.start,
            self.num_counted,
            self.is_off,
            self.is_random,
            self.claims_random,
            tuple(self.claimed),
        )


def observe(
    model: nn.Module,
    insertion: Insertion,
    claimed: dict[str, Regularizer],
    batches: list[tuple[Tensor, Tensor]],
    num_draws: int,
    seed: int,
) -> dict[str, Observed]:
    """Run the network over the batches, in training and in evaluation mode, and return the observations.

    The network's batch statistics, gradients and schedule are not restored.

    Args:
        model: The network.
        insertion: What is in it.
        claimed: Site to a layer newly built from the configuration.
        batches: Images and labels.
        num_draws: Masks drawn for each batch and site.
        seed: Of the random numbers of `passages`.
    """
    seen = {name: Observed(layer) for name, layer in insertion.installed().items()}
    layers = {name: site.layer for name, site in seen.items() if site.layer is not None}
    has_weights = any(list(layer.parameters()) for layer in layers.values())
    model.train()
    insertion.set_progress(1.0)
    for number, (images, labels) in enumerate(batches):
        with noted_calls(layers) as calls, torch.set_grad_enabled(number == 0 or has_weights):
            loss = F.cross_entropy(model(images).float(), labels)
        if loss.requires_grad:
            loss.backward()
        for name, noted in calls.items():
            seen[name].num_without_call += not noted
            if noted:
                x = subset(noted[0].x)
                seen[name].calls_train, seen[name].x = noted, x
                draw_masks(seen[name], layers[name], x, num_draws)
                draw_claimed(seen[name], claimed[name], x, num_draws)
    called = [(site, layers[name], site.x) for name, site in seen.items() if site.x is not None]
    for site, layer, x in called:
        acted = any(drawn.changes or drawn.num_dropped for batch in site.batches for drawn in batch)
        site.is_off = not acted and is_off(layer, x)
    insertion.set_progress(0.0)
    for site, layer, x in called:
        site.start = tuple(draw_mask(layer, x) for _ in range(num_draws))
    insertion.set_progress(1.0)
    acting = {name: layer for name, layer in layers.items() if seen[name].x is not None and not seen[name].is_off}
    for name, passage in passages(model, acting, batches, seed).items():
        seen[name].passage = passage
    model.eval()
    with noted_calls(layers) as calls, torch.no_grad():
        model(batches[0][0])
    for name, noted in calls.items():
        seen[name].calls_eval = noted
    return seen


@contextmanager
def noted_calls(layers: dict[str, nn.Module]) -> Iterator[dict[str, list[Call]]]:
    """Record the calls of each layer: its mode, its input, and whether it returned that, bit for bit."""
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    inputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any) -> None:
        inputs.append(args[0].detach().clone())  # the layer might write into its input

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            x = inputs.pop()
            calls[name].append(Call(module.training, x, same(output, x)))

        return hook

    handles = [layer.register_forward_pre_hook(keep) for layer in layers.values()]
    handles += [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def draw_masks(site: Observed, layer: nn.Module, x: Tensor, num_draws: int) -> None:
    """Draw masks from a layer for one batch of its input, and record them."""
    meter = DropMeter(x.device)
    if isinstance(layer, Regularizer):
        layer.meter = meter
    before = random_state(x.device)
    drawn = tuple(draw_mask(layer, x) for _ in range(num_draws))
    site.is_random |= before != random_state(x.device)
    site.batches.append(drawn)
    if isinstance(layer, Regularizer):
        layer.meter = None
        if layer.counts_exactly:
            site.num_counted = (site.num_counted or 0) + meter.read()[0]


def draw_claimed(site: Observed, layer: Regularizer, x: Tensor, num_draws: int) -> None:
    """Draw masks for one batch from a layer newly built from the configuration, at full strength."""
    before = random_state(x.device)
    layer.train().to(x.device)
    site.claimed.append(tuple(draw_mask(layer, x) for _ in range(num_draws)))
    site.claims_random |= before != random_state(x.device)


@torch.no_grad()
def is_off(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a layer returns its input in every try; one that acts in a few steps is not off."""
    few = x[:2]
    return all(same(layer(few.clone()), few) for _ in range(NUM_TRIES))


def subset(x: Tensor) -> Tensor:
    """Return the first samples of a batch, at least two where there are two, with at most about MOST_UNITS units."""
    return x[: max(2, MOST_UNITS // max(1, x[0].numel()))]


def random_state(device: torch.device) -> bytes:
    """Return the state of the random generators that a layer on this device may use."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return b"".join(state.numpy().tobytes() for state in states)


def same(output: Tensor, x: Tensor) -> bool:
    """Return whether two tensors are equal bit for bit, NaN included."""
    as_bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return output.dtype == x.dtype and torch.equal(output.view(as_bits), x.view(as_bits))


def draw_mask(layer: nn.Module, x: Tensor) -> Draw:
    """Draw one mask from a layer for `x` (N, C, H, W), and return its figures."""
    mask, out = mask_of(layer, x)
    ranked = layer if isinstance(layer, Regularizer) else None
    with torch.no_grad():
        scores = None if ranked is None else ranked.scores(x)
    scores = None if scores is None else scores.cpu()
    num_targets = None if ranked is None else ranked.num_targets(x.shape[1])
    return read(mask.cpu(), x.cpu(), out.cpu(), scores, num_targets)  # sums in fp64, which not every device has


def read(mask: Tensor, x: Tensor, out: Tensor, scores: Tensor | None = None, num_targets: int | None = None) -> Draw:
    """Return the figures of one mask (N, C, H, W), 0 where a unit is dropped and its scale elsewhere.

    Args:
        mask: As `mask_of` returns it.
        x: What the layer got.
        out: What it returned.
        scores: By which it ranks the channels (N, C); None: it does not, or at random.
        num_targets: How many channels of a sample may lose units; None: all.
    """
    dropped = mask == 0
    num_samples, num_channels, height, width = mask.shape
    per_map = dropped.sum(dim=(2, 3))
    per_sample = per_map.sum(dim=1)
    num_dropped, num_units = int(per_sample.sum()), mask.numel()
    in_part = (per_sample > 0) & (per_sample < num_units // num_samples)
    parted = dropped[in_part]
    tells_channels = num_channels > 1 and len(parted) > 0
    maps = dropped[(per_map > 0) & (per_map < height * width)]
    a_few = maps[:MOST_MAPS]
    return Draw(
        num_dropped=num_dropped,
        num_units=num_units,
        kept_scale=float(mask.sum(dtype=torch.float64)) / max(1, num_units - num_dropped),
        top_scale=float(mask.max()),
        whole_maps=len(maps) == 0,
        whole_samples=len(parted) == 0,
        one_for_channels=bool((parted == parted[:, :1]).all()) if tells_channels else None,
        one_for_batch=bool((dropped == dropped[:1]).all()) if len(parted) > 1 else None,
        window=(shortest_run(a_few.transpose(1, 2)), shortest_run(a_few)),
        changes=not same(out, x),
        is_product=bool(((out - mask * x).abs() <= 1e-3 * x.abs().max()).all()),
        mean_factor=float(mask.sum(dtype=torch.float64)) / max(1, num_units),
        digest=hashlib.sha256(dropped.cpu().numpy().tobytes()).digest(),
        down=tuple(dropped.double().mean(dim=(0, 1, 3)).tolist()),
        across=tuple(dropped.double().mean(dim=(0, 1, 2)).tolist()),
        **targets_of(dropped, x, scores, num_targets),
    )


def targets_of(dropped: Tensor, x: Tensor, scores: Tensor | None, num_targets: int | None) -> dict[str, Any]:
    """Return what a mask says of the channels that lose units, and of the units at their peaks."""
    hit = dropped.flatten(2).any(dim=2)  # (N, C)
    lowest = torch.finfo(x.dtype).min
    highest_dropped = x.masked_fill(~dropped, lowest).flatten(2).amax(dim=2)
    holds_peak = (highest_dropped == x.flatten(2).amax(dim=2)) | ~hit
    in_top = None
    if scores is not None and num_targets is not None and hit.any():
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        in_top = float((rank[hit] < num_targets).double().mean())
    return {
        "holds_peak": float(holds_peak[hit].double().mean()) if hit.any() else None,
        "in_top": in_top,
        "alike": float((hit[1:] == hit[:1]).all(dim=1).double().mean()) if len(hit) > 1 and hit.any() else None,
        "num_channels_hit": int(hit.any(dim=0).sum()),
    }


def shortest_run(dropped: Tensor) -> int | None:
    """Return the length of the shortest run of True in the rows of (K, H, W) that touches neither end of its row.

    Overlapping blocks make runs longer, never shorter: the shortest run is a block's side.
    """
    edges = F.pad(dropped.to(torch.int8), (1, 1)).diff(dim=2)
    first, past = (edges == 1).nonzero()[:, 2], (edges == -1).nonzero()[:, 2]  # paired: both are in row order
    lengths = (past - first)[(first > 0) & (past < dropped.shape[2])]
    return int(lengths.min()) if len(lengths) else None
