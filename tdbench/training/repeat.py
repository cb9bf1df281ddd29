"""One run's training step on one batch, again and again: what a profile measures."""

from itertools import islice

import torch

from tdbench.config import RunConfig, ScheduleConfig
from tdbench.data.sources import LoadedData
from tdbench.training.average import tensors_of
from tdbench.training.run import Run

MOST_DISTINCT = 256  # images; a larger batch repeats them


class RepeatedStep:
    """Does one more step of a run, always with the same images, whenever it is called.

    The batch size is free: the images are repeated where the data set has fewer, and are not mixed. Schedules stand at
    their full strength and the learning rate at next to nothing, so that all steps are alike.

    Args:
        config: The run.
        data: Its data set, where that is loaded already.
    """

    def __init__(self, config: RunConfig, data: LoadedData | None = None) -> None:
        batch_size = config.training.batch_size
        regularizer = config.regularizer.model_copy(update={"schedule": "constant"})
        training = config.training.model_copy(update={"batch_size": 1})
        lr = None if config.optimizer.lr is None else 1e-6  # null: the user's own optimizer has it
        optimizer = config.optimizer.model_copy(update={"lr": lr})
        schedule = ScheduleConfig(name="constant", warmup_epochs=0)  # torch's may be made for a number of steps
        augment = config.augment.model_copy(update={"mixup": 0.0, "cutmix": 0.0})  # images come one by one here
        update = {"regularizer": regularizer, "training": training, "optimizer": optimizer, "schedule": schedule}
        update["augment"] = augment
        self.run = Run(config.model_copy(update=update), data=data)
        singles = islice(self.run.batches.epoch(1, 0, len(self.run.batches)), min(batch_size, MOST_DISTINCT))
        images, labels = (torch.cat(parts) for parts in zip(*singles, strict=True))
        chosen = torch.arange(batch_size, device=images.device) % len(images)
        self.images = images[chosen].contiguous(memory_format=self.run.hardware.memory_format)
        self.labels = labels[chosen]
        self.run.begin_steps()

    def __call__(self) -> None:
        """Do one step.

        Raises:
            torch.OutOfMemoryError: There was no memory left to record it in; its time would be no recorded step's.
        """
        self.run.train_step(self.images, self.labels, 0)
        self.run.clock.forget()
        if self.run.graph is not None and isinstance(self.run.graph.error, torch.OutOfMemoryError):
            raise self.run.graph.error

    def eager(self) -> None:
        """Do one step kernel by kernel, as all that follow: a graph would keep a memory of its own beside it."""
        self.run.graph = None
        self()

    def held_bytes(self) -> int:
        """Return the memory held between steps: weights, buffers, gradients, optimizer state, average, batch."""
        weights = list(self.run.model.parameters())
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        state = [value for values in self.run.optimizer.state.values() for value in values.values()]
        average = tensors_of(self.run.average)
        batch = [self.images, self.labels]
        tensors = [*weights, *self.run.model.buffers(), *gradients, *state, *average, *batch]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
