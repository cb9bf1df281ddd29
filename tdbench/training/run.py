"""A run's state on its device: network, regularizer, data, optimizer, sums; and its steps.

Nothing here waits for the device inside an epoch unless it is asked for a figure: losses, hits and drop counts are
summed on the device. The network's weights and the data's order and crops come from generators of their own, so that
torch's global generator serves the regularizer alone, and runs of one seed differ only by the regularizer.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tdbench.config import RunConfig
from tdbench.data.augmentation import dominant
from tdbench.data.seeds import derive_seed
from tdbench.data.sources import LoadedData
from tdbench.errors import TdbenchError
from tdbench.store.progress import Progress
from tdbench.store.rows import EpochRow, RunResult, TrialState
from tdbench.training.average import averaged
from tdbench.training.batchnorm import batch_norms, re_estimated
from tdbench.training.clock import StepClock
from tdbench.training.evaluation import Evaluation, error_pct, evaluate
from tdbench.training.facts import facts_of
from tdbench.training.graph import check_recorded, graph_of, keep_strength_live, rises_live
from tdbench.training.optimizer import LearningRates, make_optimizer
from tdbench.training.parallel import ALONE, Processes
from tdbench.training.schedule import Schedule, num_steps_of
from tdbench.training.setup import Setup
from tdbench.training.trace import StepTrace
from tdbench.user_code import is_user_code


class Diverged(TdbenchError):
    """The loss became NaN or infinite."""


class Run:
    """A network, its data and its regularizer on their device, and how far its training is.

    Of several processes, each has a run; the figures that a run returns are those of all.
    """

    trace: StepTrace | None = None
    has_slowed = False  # its steps have become several times slower, and that was told

    def __init__(self, config: RunConfig, processes: Processes = ALONE, data: LoadedData | None = None) -> None:
        self.config, self.processes = config, processes
        setup = Setup(config, data, processes.local_rank)
        self.hardware, self.model, self.classes = setup.hardware, setup.model, setup.data.classes
        self.insertion = setup.insert()
        if processes.rank > 0:  # the layers start alike, and then each process draws masks of its own
            torch.manual_seed(derive_seed(config.seed, "regularizer", processes.rank))
        device, share = self.hardware.device, (processes.rank, processes.count)
        self.batches = setup.train_batches(share)
        self.test_batches = setup.test_batches(share) if config.data.test else None
        self.valid_batches = setup.valid_batches(share)
        self.insertion.meter(device)
        if self.hardware.compile:
            self.model.compile()  # not `dynamic=False`, which compiles anew for each strength of a schedule that rises
        self.network = self.model
        self.steps_per_epoch = len(self.batches)
        self.num_steps = num_steps_of(config.training, self.steps_per_epoch)
        can_rise = rises_live(self.insertion)
        self.graph = graph_of(self.learn, config, self.hardware, self.num_steps, processes.count, can_rise)
        keep_strength_live(self.insertion, device, self.graph is not None or self.hardware.compile)
        is_on_gpu = device.type == "cuda" and (self.graph is not None or config.optimizer.can_be_recorded)
        self.optimizer = make_optimizer(self.model, config.optimizer, device, is_on_gpu)  # alike, recorded or not
        self.rates = LearningRates(self.optimizer, device if is_on_gpu else None)
        self.average = averaged(self.model, config.optimizer.ema_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.hardware.precision == "fp16")
        self.schedule = Schedule(config.schedule, self.num_steps, self.steps_per_epoch)
        self.rate_at(self.num_steps - 1)  # which a schedule may refuse
        self.clock = StepClock(device)
        self.rows: list[EpochRow] = []
        self.step = 0
        self.total_dropped = [0, 0]  # units dropped, units seen, in finished epochs
        self.wall_s = self.epoch_s = 0.0
        self.saved = time.perf_counter()  # when its last checkpoint was written, or it was begun
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        self.num_hits = torch.zeros((), dtype=torch.int64, device=device)
        self.last_evaluation: Evaluation | None = None
        self.test_error_pct_bn: float | None = None
        self.valid_error_pct: float | None = None
        self.contents = config.contents(running=True)  # as they were read: they may change while the run goes on
        self.digest = config.digest(self.contents)
        self.facts = facts_of(setup, self.insertion, processes.count)

    def keep_threads(self, number: int) -> None:
        """Go on with the CPU threads that the run began with: the rounding of a sum depends on how many share it."""
        asked = self.hardware.threads
        if number == asked:
            return
        torch.set_num_threads(number)
        self.hardware = replace(self.hardware, threads=number)
        if self.config.hardware.threads is not None:
            hardware = self.config.hardware.model_copy(update={"threads": number})
            self.config = self.config.model_copy(update={"hardware": hardware})
        self.facts["threads"] = f"{number}, with which the run was begun, and not {asked}"

    @property
    def epoch(self) -> int:
        """The epoch, from 1, that the next step belongs to."""
        return len(self.rows) + 1

    def steps_of_epoch(self) -> tuple[int, int]:
        """Return the steps of the current epoch that are still to be done: the first, and one past the last."""
        before = len(self.rows) * self.steps_per_epoch
        return self.step - before, min(self.steps_per_epoch, self.num_steps - before)

    def distribute(self) -> None:
        """Train together with the other processes from now on; all have to come here."""
        uses_user_code = any(map(is_user_code, (self.config.model.name, self.config.regularizer.name)))
        # Where a schedule begins, its layers are not there yet, and a user's code may do anything.
        can_skip_weights = uses_user_code or self.config.regularizer.schedule != "constant"
        # Those of the networks known here are BatchNorm's averages, which only evaluation uses.
        self.network = self.processes.distribute(self.model, self.hardware.device, can_skip_weights, uses_user_code)

    def begin_steps(self) -> None:
        """Make ready for a series of training steps."""
        self.model.train()
        self.clock.start()

    def train_step(self, images: Tensor, labels: Tensor, number: int) -> None:
        """Do one optimizer step on this process's share of a batch, step `number` of its epoch."""
        self.clock.batch_ready()
        self.rates.set(partial(self.schedule.lr_at, self.step))
        self.insertion.set_progress(self.step / self.num_steps)
        self.losses[number] = self.graph(images, labels) if self.graph else self.learn(images, labels)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        if self.trace is not None:
            self.trace.step()
        self.clock.tick()

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """Do what a step does on the device, and return the loss; nothing in it may wait for the device."""
        with self.hardware.autocast():
            logits = self.network(self.hardware.of_one_size(images)).float()
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.training.label_smoothing)
        check_recorded(self.insertion, self.hardware.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autograd.set_multithreading_enabled(False):  # a GPU's thread for it costs the host a tenth of a step
            self.scaler.scale(loss).backward()
        if self.config.optimizer.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.num_hits += logits.detach().argmax(1).eq(dominant(labels)).sum()
        return loss.detach()

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0; of several groups of weights that of the first."""
        return self.schedule.lr_at(step, self.rates.peaks[0])

    def losses_and_hits(self, num_done: int) -> tuple[Tensor, int]:
        """Return the loss of each of this epoch's first `num_done` steps, fp64 on the CPU, and how many images hit."""
        shares = self.processes.gather((self.losses[:num_done].cpu(), int(self.num_hits)))
        return torch.stack([losses for losses, _ in shares]).double().mean(0), sum(hits for _, hits in shares)

    def check_losses(self, num_done: int) -> None:
        """Raise Diverged if a loss of this epoch's first `num_done` steps is NaN or infinite."""
        losses, _ = self.losses_and_hits(num_done)
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step = len(self.rows) * self.steps_per_epoch + int(bad[0]) + 1
            value = float(losses[bad[0]])
            raise Diverged(f"the loss became {value} at step {step} (epoch {self.epoch})")

    def check_evaluation(self) -> None:
        """Raise Diverged if the last epoch's test loss is NaN or infinite: its last step ruined the weights."""
        row = self.rows[-1] if self.rows else None
        if row is not None and row.test_loss is not None and not math.isfinite(row.test_loss):
            raise Diverged(f"the test loss became {row.test_loss} after step {self.step} (epoch {row.epoch})")

    def tested(self) -> list[float]:
        """Return the test errors so far, in per cent."""
        return [row.test_error_pct for row in self.rows if row.test_error_pct is not None]

    def progress(self, num_done: int) -> Progress:
        """Return where the run is, `num_done` steps into its epoch."""
        tested = self.tested()
        self.hardware.synchronize()
        self.clock.collect()
        losses, num_hits = self.losses_and_hits(num_done)
        return Progress(
            epoch=self.epoch,
            num_epochs=math.ceil(self.num_steps / self.steps_per_epoch),
            step=self.step,
            num_steps=self.num_steps,
            batch_size=self.config.training.batch_size,
            train_loss=float(losses.mean()),
            train_error_pct=error_pct(num_hits, num_done * self.config.training.batch_size),
            test_error_pct=tested[-1] if tested else None,
            train_img_per_s=self.img_per_s(self.clock.recent_median_s()) or 0.0,
        )

    def evaluate(self) -> Evaluation | None:
        """Return what the network makes of the test images; None where the run is not to see them."""
        if self.test_batches is None:
            return None
        return evaluate(self.model, self.test_batches, self.hardware, self.processes)

    def evaluate_average(self) -> float | None:
        """Return the test error, in per cent, of the moving average of the weights; None where none is kept."""
        if self.average is None or self.test_batches is None:
            return None
        return evaluate(self.average.module, self.test_batches, self.hardware, self.processes).error_pct

    def evaluate_at_the_end(self) -> Evaluation | None:
        """Return what the trained network makes of the test images, which the last epoch may have told already."""
        if self.last_evaluation is None:  # it was evaluated before the run was interrupted
            self.last_evaluation = self.evaluate()
        return self.last_evaluation

    def validate(self) -> None:
        """Measure the error on the images that were held out, where some were.

        Raises:
            Diverged: Their loss is NaN or infinite.
        """
        if self.valid_batches is not None:
            seen = evaluate(self.model, self.valid_batches, self.hardware, self.processes)
            if not math.isfinite(seen.loss):
                raise Diverged(f"the loss of the held-out images became {seen.loss} after step {self.step}")
            self.valid_error_pct = seen.error_pct

    @torch.no_grad()
    def evaluate_re_estimated(self, check: Callable[[], None]) -> None:
        """Measure the test error with BatchNorm's statistics re-estimated, the regularizer off; nothing else changes.

        Args:
            check: Called before each batch; what it raises ends the measurement.
        """
        num_batches = min(self.config.evaluate.bn_batches, self.steps_per_epoch)
        if not num_batches or not batch_norms(self.model) or self.test_batches is None:
            return
        begun = time.perf_counter()

        def passes() -> Iterator[None]:
            for images, _ in self.batches.epoch(0, 0, num_batches):  # an order and crops that no epoch has had
                check()
                with self.hardware.autocast():
                    self.model.forward(images)  # not the compiled one, which would be compiled anew for this
                yield

        with re_estimated(self.model, passes(), self.processes):
            seen = self.evaluate()
            self.test_error_pct_bn = None if seen is None else seen.error_pct
        self.wall_s += time.perf_counter() - begun

    def result(self, status: TrialState, error: str | None) -> RunResult:
        """Return what `result.json` is to hold."""
        tested, over, seen = self.tested(), status is TrialState.DONE, self.last_evaluation
        dropped, units = self.total_dropped
        return RunResult(
            status=status,
            digest=self.digest,
            seed=self.config.seed,
            epochs=len(self.rows),
            test_error_pct=tested[-1] if over and tested else None,
            best_test_error_pct=min(tested) if tested else None,
            train_error_pct=self.rows[-1].train_error_pct if over else None,
            dropped_pct=100 * dropped / units if units else None,
            train_img_per_s=self.img_per_s(self.clock.median_s()),
            wall_s=self.wall_s + self.epoch_s,
            peak_mem_mib=max([row.peak_mem_mib for row in self.rows[-1:]] + [self.hardware.peak_mem_mib()]),
            error=error,
            test_loss=seen.loss if over and seen is not None else None,
            ece_pct=seen.ece_pct if over and seen is not None else None,
            brier=seen.brier if over and seen is not None else None,
            test_error_pct_bn=self.test_error_pct_bn,
            valid_error_pct=self.valid_error_pct,
            test_error_pct_ema=self.rows[-1].test_error_pct_ema if over and self.rows else None,
        )

    def img_per_s(self, step_s: float | None) -> float | None:
        """Return the images per second of a step of that length; None where there is none."""
        return None if step_s is None else self.config.training.batch_size / step_s

    def end_epoch(self) -> EpochRow:
        """Evaluate where it is due, close the epoch and return its row of `metrics.csv`."""
        begun = time.perf_counter()
        num_done = self.step - len(self.rows) * self.steps_per_epoch
        self.hardware.synchronize()
        self.clock.collect()
        due = self.step == self.num_steps or self.epoch % self.config.training.eval_every == 0
        seen = self.evaluate() if due else None
        average_pct = self.evaluate_average() if due else None
        self.last_evaluation = seen if self.step == self.num_steps else None
        losses, num_hits = self.losses_and_hits(num_done)
        shares = self.processes.gather((self.insertion.read_meter(reset=True), self.hardware.peak_mem_mib()))
        counts = [count for meters, _ in shares for count in meters.values()]
        dropped, units = sum(dropped for dropped, _ in counts), sum(units for _, units in counts)
        self.total_dropped = [self.total_dropped[0] + dropped, self.total_dropped[1] + units]
        self.epoch_s += time.perf_counter() - begun
        row = EpochRow(
            epoch=self.epoch,
            lr=self.rate_at(self.step - 1),
            train_loss=float(losses.mean()),
            train_error_pct=error_pct(num_hits, num_done * self.config.training.batch_size),
            test_loss=None if seen is None else seen.loss,
            test_error_pct=None if seen is None else seen.error_pct,
            dropped_pct=100 * dropped / max(1, units),
            train_img_per_s=self.img_per_s(self.clock.epoch_median_s()),
            epoch_s=self.epoch_s,
            peak_mem_mib=max(peak_mem_mib for _, peak_mem_mib in shares),
            test_error_pct_ema=average_pct,
        )
        self.rows.append(row)
        self.wall_s, self.epoch_s = self.wall_s + self.epoch_s, 0.0
        self.num_hits.zero_()
        return row
