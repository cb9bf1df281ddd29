"""What every look at a run needs before anything is trained: its hardware, its data, its network, its regularizer."""

from tdbench.config import RunConfig
from tdbench.data.batches import TestBatches, TrainBatches
from tdbench.data.sources import LoadedData, load_data
from tdbench.models.build import check_network
from tdbench.models.insertion import Insertion
from tdbench.training.hardware import activate, resolve
from tdbench.training.inputs import as_taken, check_size, images_for
from tdbench.training.network import seeded_insertion, seeded_network
from tdbench.training.optimizer import check_optimizer


class Setup:
    """A run's data and its network, with the initial weights and without a regularizer, on their device.

    Sets the process up for the run: threads, determinism, fast kernels.

    Args:
        config: The run.
        data: Its data set, where that is loaded already.
        local_rank: The number of this process on its machine, where several train one network.

    Raises:
        TdbenchError: The network, the data or the device cannot be had.
    """

    def __init__(self, config: RunConfig, data: LoadedData | None = None, local_rank: int | None = None) -> None:
        self.config = config
        check_network(config.model.name)  # a misspelt name should not wait for the data
        check_optimizer(config.optimizer)
        self.hardware = resolve(config.hardware, local_rank)
        data = data or load_data(images_for(config), config.seed)
        check_size(config.data, data)
        self.data = as_taken(config.model, data)
        activate(self.hardware, config.hardware.deterministic)
        self.model, self.begun = seeded_network(config, self.data)
        self._move()

    def insert(self, config: RunConfig | None = None) -> Insertion:
        """Put the run's regularizer into the network, on its device, or that of a run that differs in it alone.

        torch's global generator then goes on as in a run's first step.

        Raises:
            ConfigError: A site is unknown or unsuitable.
        """
        insertion = seeded_insertion(self.model, config or self.config, self.data.input_shape)
        self._move()
        return insertion

    def _move(self) -> None:
        """Move the network, with all that was put into it, to its device and into its memory format."""
        layout = self.hardware.memory_format
        self.model.to(device=self.hardware.device, memory_format=layout)  # type: ignore[call-overload]

    def train_batches(self, share: tuple[int, int] = (0, 1)) -> TrainBatches:
        """Return the training batches, or one share of each of them, of so many."""
        return TrainBatches(self.data, self.config, self.hardware.device, self.hardware.memory_format, share)

    def test_batches(self, share: tuple[int, int] = (0, 1)) -> TestBatches:
        """Return the test batches, or one share of them, of so many."""
        return TestBatches(self.data, self.config, self.hardware.device, self.hardware.memory_format, share)

    def valid_batches(self, share: tuple[int, int] = (0, 1)) -> TestBatches | None:
        """Return the batches of the images that were held out of the training images, if any were."""
        if self.data.valid is None:
            return None
        hardware = self.hardware
        return TestBatches(self.data, self.config, hardware.device, hardware.memory_format, share, self.data.valid)

    def num_parameters(self) -> int:
        """Return the number of the network's weights, those of a trained attention included."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def without_compilation(config: RunConfig) -> RunConfig:
    """Return the same run, not compiled: compilation would take longer than what is looked at."""
    return config.model_copy(update={"hardware": config.hardware.model_copy(update={"compile": False})})
