"""One run, from its start or its checkpoint to its result.

Nothing waits for the device inside an epoch but the half-second look at the loss: losses, hits and drop counts are
summed on the device. The network's weights and the data's order and crops come from generators of their own, so that
torch's global generator serves the regularizer alone, and runs of one seed differ only by the regularizer.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.config import RunConfig, find_method
from tdbench.data.batches import TestBatches, TrainBatches, derive_seed
from tdbench.data.sources import load_data
from tdbench.errors import FolderError, Interrupted, TdbenchError
from tdbench.models.build import build, find_network
from tdbench.models.sites import insert
from tdbench.results.store import CHECKPOINT, RunFolder
from tdbench.training.checkpoint import load_checkpoint, save_checkpoint
from tdbench.training.clock import StepClock
from tdbench.training.environment import describe_environment
from tdbench.training.precision import activate, resolve
from tdbench.training.schedule import lr_at

LOOK_EVERY_S = 0.5  # how often the loss is read back from a device that works on its own


class Diverged(TdbenchError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Progress:
    """Where a run is, for whoever watches it; the averages are over the epoch so far."""

    epoch: int
    num_epochs: int
    step: int  # done, of the whole run
    num_steps: int
    batch_size: int
    train_loss: float
    train_error_pct: float
    test_error_pct: float | None  # of the last evaluation
    train_img_per_s: float


class Observer:
    """Watches a run; this one does nothing."""

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        """Hear what runs where, and how many of its steps were done before."""

    def progressed(self, progress: Progress) -> None:
        """Hear how far the run is, about twice a second."""

    def epoch_ended(self, row: dict[str, Any]) -> None:
        """Hear the row that an epoch gave, with the columns of `metrics.csv`."""


def train(
    config: RunConfig,
    out: Path,
    *,
    fresh: bool = False,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train one network, or go on where an earlier call on the same folder stopped.

    Seeds torch's global generator, sets its threads and its determinism.

    Args:
        config: The run.
        out: The run folder; made where it is missing, written to only after everything else proved usable.
        fresh: Delete the run that the folder holds and start over.
        observer: Told of the progress.
        should_stop: Asked after each step; once true, the run is saved and `Interrupted` raised.

    Returns:
        The fields of `result.json`; at once, where the folder holds the finished run.

    Raises:
        TdbenchError: Something the user can act on; what was saved before is intact.
    """
    folder = RunFolder(out)
    finished = finished_result(folder, config, fresh)
    if finished is not None:
        return finished
    run = Run(config)
    with folder.in_use():
        finished = finished_result(folder, config, fresh)  # another process may have been at it meanwhile
        if finished is not None:
            return finished
        if fresh:
            folder.clear()
        return run.execute(folder, observer or Observer(), should_stop)


def finished_result(folder: RunFolder, config: RunConfig, fresh: bool = False) -> dict[str, Any] | None:
    """Return the result in the folder if the run is over; None if it is to be run, or to be run again.

    Raises:
        FolderError: The folder holds another run, or something else.
    """
    tree = folder.read_config()
    if tree is None:
        if folder.holds_run_files() and not fresh:
            raise FolderError(f"{folder.path} holds files of a run but no config.yaml; take another --out, or --fresh")
        return None
    try:
        find_method(str((tree.get("regularizer") or {}).get("name")))
        other = RunConfig.model_validate(tree)
    except (ValueError, AttributeError, TdbenchError) as error:
        raise FolderError(f"{folder.path} holds a config.yaml that is no run's; take another --out") from error
    if fresh:
        return None
    if other.digest() != config.digest():
        here, there = config.identity(), other.identity()
        keys = [key for key in here | there if here.get(key) != there.get(key)]
        differences = [f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys]
        why = "; ".join(differences[:4]) or "it was made by another release of tdbench"
        raise FolderError(f"{folder.path} holds another run: {why}; take another --out, or --fresh to replace it")
    result = folder.read_result()
    return result if result is not None and result["status"] != "failed" else None


class Run:
    """A network, its data and its regularizer on their device, and how far its training is."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        network = find_network(config.model.name)
        self.hardware = resolve(config.hardware)
        data = load_data(config.data, config.seed)
        activate(self.hardware, config.hardware.deterministic)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.model = build(config.model.name, data.num_classes, data.image_shape[0])
        torch.manual_seed(derive_seed(config.seed, "regularizer"))
        self.insertion = insert(self.model, config.regularizer, image_shape=data.image_shape)
        device, layout = self.hardware.device, self.hardware.memory_format
        self.batches = TrainBatches(data, config, device, layout)
        self.test_batches = TestBatches(data, config, device, layout)
        self.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.insertion.meter()
        if self.hardware.compile:
            self.model.compile()
        options = config.optimizer.model_dump()
        self.optimizer = torch.optim.SGD(self.model.parameters(), **options, fused=device.type in ("cpu", "cuda"))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.hardware.precision == "fp16")
        self.steps_per_epoch = len(self.batches)
        planned = config.training.epochs * self.steps_per_epoch
        self.num_steps = min(planned, config.training.max_steps or planned)
        self.clock = StepClock(device)
        self.rows: list[dict[str, Any]] = []
        self.step = 0
        self.total_dropped = [0, 0]  # units dropped, units seen, in finished epochs
        self.wall_s = self.epoch_s = 0.0
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        self.num_hits = torch.zeros((), dtype=torch.int64, device=device)
        self.facts = {
            "model": f"{config.model.name} ({network.title}), {sum(p.numel() for p in self.model.parameters()):,} "
            "parameters",
            "data": f"{config.data.name}, {len(data.train):,} train and {len(data.test):,} test images, "
            f"{'×'.join(map(str, data.image_shape))}, {data.num_classes} classes",
            "regularizer": describe_regularizer(config),
            "sites": ", ".join(f"{name} {'×'.join(map(str, s))}" for name, s in self.insertion.shapes.items()),
            "device": self.hardware.name(),
            "precision": f"{self.hardware.precision}, {config.hardware.memory_format}"
            + (", compiled" if self.hardware.compile else ""),
            "threads": str(self.hardware.threads),
        }

    def execute(self, folder: RunFolder, observer: Observer, should_stop: Callable[[], bool]) -> dict[str, Any]:
        """Train to the end, saving each epoch; return the result that was written."""
        state = load_checkpoint(folder / CHECKPOINT, self.config.digest())
        if state is not None:
            self.load_state_dict(state)
        folder.write_config(self.config.dump())
        folder.write_environment(describe_environment(self.hardware))
        folder.write_metrics(self.rows)
        observer.started(self.facts, self.step, self.num_steps)
        status, error = "done", None
        try:
            while self.step < self.num_steps:
                self.train_epoch(folder, observer, should_stop)
                self.end_epoch(folder, observer)
        except Diverged as divergence:
            status, error = "diverged", str(divergence)
        except TdbenchError:
            raise
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}".splitlines()[0]
            folder.write_result(self.result("failed", error))
            raise TdbenchError(f"the run failed in epoch {self.epoch}: {error}; {folder.path} keeps it") from failure
        result = self.result(status, error)
        folder.write_result(result)
        return result

    @property
    def epoch(self) -> int:
        """The epoch, from 1, that the next step belongs to."""
        return len(self.rows) + 1

    def train_epoch(self, folder: RunFolder, observer: Observer, should_stop: Callable[[], bool]) -> None:
        """Train from the current step to the end of its epoch, or of the run."""
        first = self.step - len(self.rows) * self.steps_per_epoch
        last = min(self.steps_per_epoch, self.num_steps - len(self.rows) * self.steps_per_epoch)
        begun = looked = time.perf_counter()
        earlier_s = self.epoch_s
        self.model.train()
        self.clock.start()
        for number, (images, labels) in enumerate(self.batches.epoch(self.epoch, first), first):
            self.train_step(images, labels, number)
            self.step += 1
            self.clock.tick()
            now = time.perf_counter()
            self.epoch_s = earlier_s + now - begun
            if now - looked >= LOOK_EVERY_S or self.hardware.device.type == "cpu":
                self.check_losses(number + 1)
            if now - looked >= LOOK_EVERY_S:
                looked = now
                observer.progressed(self.progress(number + 1))
            if self.step < self.num_steps and number + 1 < last and should_stop():
                self.interrupt(folder, number + 1)
            if number + 1 == last:
                break
        self.check_losses(last)

    def train_step(self, images: Tensor, labels: Tensor, number: int) -> None:
        """Do one optimizer step on one batch, step `number` of its epoch."""
        rate = self.config.optimizer.lr
        rate = lr_at(self.step, self.num_steps, self.steps_per_epoch, rate, self.config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.hardware.autocast():
            logits = self.model(images).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.training.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.losses[number] = loss.detach()
        self.num_hits += logits.detach().argmax(1).eq(labels).sum()

    def check_losses(self, num_done: int) -> None:
        """Raise Diverged if a loss of this epoch's first `num_done` steps is NaN or infinite."""
        losses = self.losses[:num_done].cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = len(self.rows) * self.steps_per_epoch + int(bad[0]) + 1
            value = float(losses[bad[0]])
            raise Diverged(f"the loss became {value} at step {step} (epoch {self.epoch})")

    def interrupt(self, folder: RunFolder, num_done: int) -> None:
        """Save the run in the middle of an epoch and raise Interrupted."""
        self.check_losses(num_done)
        self.clock.collect()
        self.save(folder)
        raise Interrupted(f"stopped after step {self.step} of {self.num_steps}; the same command goes on from there")

    def progress(self, num_done: int) -> Progress:
        """Return where the run is, `num_done` steps into its epoch."""
        num_images = num_done * self.config.training.batch_size
        tested = [row["test_error_pct"] for row in self.rows if row["test_error_pct"] is not None]
        self.hardware.synchronize()
        self.clock.collect()
        return Progress(
            epoch=self.epoch,
            num_epochs=math.ceil(self.num_steps / self.steps_per_epoch),
            step=self.step,
            num_steps=self.num_steps,
            batch_size=self.config.training.batch_size,
            train_loss=float(self.losses[:num_done].mean()),
            train_error_pct=100 * (1 - int(self.num_hits) / num_images),
            test_error_pct=tested[-1] if tested else None,
            train_img_per_s=self.config.training.batch_size / self.clock.median_s(),
        )

    def end_epoch(self, folder: RunFolder, observer: Observer) -> None:
        """Evaluate where it is due, save the epoch's row and a checkpoint."""
        begun = time.perf_counter()
        num_done = self.step - len(self.rows) * self.steps_per_epoch
        self.hardware.synchronize()
        self.clock.collect()
        due = self.step == self.num_steps or self.epoch % self.config.training.eval_every == 0
        test_loss, test_error_pct = self.evaluate() if due else (None, None)
        dropped, units = map(sum, zip(*self.insertion.read_meter(reset=True).values(), strict=True))
        self.total_dropped = [self.total_dropped[0] + dropped, self.total_dropped[1] + units]
        self.epoch_s += time.perf_counter() - begun
        row = {
            "epoch": self.epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": float(self.losses[:num_done].double().mean()),
            "train_error_pct": 100 * (1 - int(self.num_hits) / (num_done * self.config.training.batch_size)),
            "test_loss": test_loss,
            "test_error_pct": test_error_pct,
            "dropped_pct": 100 * dropped / max(1, units),
            "train_img_per_s": self.config.training.batch_size / self.clock.median_s(),
            "epoch_s": self.epoch_s,
            "peak_mem_mib": self.hardware.peak_mem_mib(),
        }
        self.rows.append(row)
        self.wall_s += self.epoch_s
        self.epoch_s = 0.0
        self.num_hits.zero_()
        self.save(folder)
        folder.write_metrics(self.rows)
        observer.epoch_ended(row)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Return the mean loss and the error in per cent over the test images."""
        self.model.eval()
        loss = torch.zeros((), dtype=torch.float64, device=self.hardware.device)
        num_hits = torch.zeros((), dtype=torch.int64, device=self.hardware.device)
        for images, labels, num_counted in self.test_batches:
            with self.hardware.autocast():
                logits = self.model(images).float()
            logits, labels = logits[:num_counted], labels[:num_counted]
            loss += F.cross_entropy(logits, labels, reduction="sum")
            num_hits += logits.argmax(1).eq(labels).sum()
        num_images = self.test_batches.num_images
        return float(loss) / num_images, 100 * (1 - int(num_hits) / num_images)

    def result(self, status: str, error: str | None) -> dict[str, Any]:
        """Return the fields of `result.json`."""
        tested = [row["test_error_pct"] for row in self.rows if row["test_error_pct"] is not None]
        over = status == "done"
        dropped, units = self.total_dropped
        return {
            "status": status,
            "digest": self.config.digest(),
            "seed": self.config.seed,
            "epochs": len(self.rows),
            "test_error_pct": tested[-1] if over else None,
            "best_test_error_pct": min(tested) if tested else None,
            "train_error_pct": self.rows[-1]["train_error_pct"] if over else None,
            "dropped_pct": 100 * dropped / units if units else None,
            "train_img_per_s": self.config.training.batch_size / self.clock.median_s(),
            "wall_s": self.wall_s + self.epoch_s,
            "peak_mem_mib": self.hardware.peak_mem_mib(),
            "error": error,
        }

    def save(self, folder: RunFolder) -> None:
        """Write a checkpoint."""
        save_checkpoint(folder / CHECKPOINT, self.config.digest(), self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resume needs, as tensors and plain types."""
        device = self.hardware.device
        return {
            "model": self.model.state_dict(),
            "regularizer": self.insertion.state_dict(),
            "dropped": {name: layer.meter.counts for name, layer in self.insertion.layers.items() if layer.meter},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "rows": self.rows,
            "step": self.step,
            "losses": self.losses,
            "num_hits": self.num_hits,
            "total_dropped": self.total_dropped,
            "steps_s": torch.tensor(self.clock.steps_s),
            "wall_s": self.wall_s,
            "epoch_s": self.epoch_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` returned for the same configuration."""
        self.model.load_state_dict(state["model"])
        self.insertion.load_state_dict(state["regularizer"])
        for name, layer in self.insertion.layers.items():
            if layer.meter is not None:
                layer.meter.counts.copy_(state["dropped"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.hardware.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.hardware.device)
        self.rows, self.step = state["rows"], state["step"]
        self.losses.copy_(state["losses"])
        self.num_hits.copy_(state["num_hits"])
        self.total_dropped = state["total_dropped"]
        self.clock.steps_s = state["steps_s"].tolist()
        self.wall_s, self.epoch_s = state["wall_s"], state["epoch_s"]


def describe_regularizer(config: RunConfig) -> str:
    """Return the method and its knobs in a line."""
    knobs = config.regularizer.model_dump(exclude={"name", "sites"}, exclude_none=True)
    listed = ", ".join(f"{name} {value}" for name, value in knobs.items())
    return f"{config.regularizer.name} ({listed})" if listed else config.regularizer.name
