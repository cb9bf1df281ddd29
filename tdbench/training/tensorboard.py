"""Curves and hyperparameters for TensorBoard, beside the run's own files."""

from dataclasses import asdict
from pathlib import Path

from tdbench.config import RunConfig
from tdbench.errors import ConfigError
from tdbench.store.progress import Observer
from tdbench.store.rows import EpochRow

FOLDER = "tensorboard"


class TensorBoard(Observer):
    """Writes each epoch's row, under the names of `metrics.csv`, and the configuration as hyperparameters.

    Args:
        folder: The run folder; the event files go to `tensorboard/` in it.
        config: The run's configuration.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        check_tensorboard()
        self._folder, self._config = folder / FOLDER, config

    def started(self, facts: dict[str, str], step: int, num_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        values = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value)
            for key, value in self._config.identity().items()
        }
        metrics = {"test_error_pct": 0.0, "train_error_pct": 0.0, "dropped_pct": 0.0}
        self._writer = SummaryWriter(str(self._folder))
        writer = self._writer._get_file_writer()  # add_hparams would open a folder of its own for each run
        for summary in hparams(values, metrics):
            writer.add_summary(summary)

    def epoch_ended(self, row: EpochRow) -> None:
        for name, value in asdict(row).items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()


def check_tensorboard() -> None:
    """Raise ConfigError unless tensorboard is installed."""
    from importlib.util import find_spec

    if find_spec("tensorboard") is None:
        raise ConfigError(
            '--log tensorboard needs tensorboard, which is not installed: pip install "tdbench[tensorboard]"'
        )
