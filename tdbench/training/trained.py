"""The trained weights of a run, finished or not, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.config import RunConfig, load_config
from tdbench.config.contents import changes, shortened
from tdbench.errors import ConfigError, FolderError, line_of
from tdbench.models.insertion import Insertion
from tdbench.store.folders import CHECKPOINT, CODE, CONFIG, RunFolder
from tdbench.training.checkpoint import load_checkpoint, rows_of


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A run folder's configuration and the state in its checkpoint; `open_run` reads it."""

    path: Path
    config: RunConfig
    state: dict[str, Any]  # as checkpoint.state_of returns it
    images: Mapping[str, str] | None = None  # what its data set held, part by part; None: that is not known

    def changed_images(self, config: RunConfig) -> list[str]:
        """Return in words how the images of a configuration differ from those that the run was trained on."""
        now = config.contents().get("data")
        return changes({"data": self.images}, {"data": now}) if self.images is not None and now is not None else []

    def describe(self) -> str:
        """Return the run's folder, epoch, step and last test error, in a few words."""
        rows = rows_of(self.state)
        tested = [row.test_error_pct for row in rows if row.test_error_pct is not None]
        error = f", test error {tested[-1]:.2f} %" if tested else ""
        return f"{self.path}, epoch {len(rows)}, step {self.state['step']}{error}"

    def check_fits(self, config: RunConfig) -> None:
        """Raise ConfigError unless a configuration has the trained run's network and data set."""
        ours, theirs = config.settings(), self.config.settings()
        for key in ("model.name", "data.name"):
            if ours[key] != theirs[key]:
                raise ConfigError(
                    f"{key} must be {theirs[key]!r}, with which {self.path} was trained, got {ours[key]!r}"
                )

    def load_weights(self, model: nn.Module) -> None:
        """Load the trained weights into a network.

        Raises:
            ConfigError: The weights do not fit the network.
        """
        try:
            model.load_state_dict(self.state["model"])
        except RuntimeError as error:
            reason = line_of(error, with_type=False)
            raise ConfigError(f"the weights in {self.path} do not fit this network and data set: {reason}") from error

    def load_regularizer(self, insertion: Insertion, method: str) -> bool:
        """Load the state of the run's own layers, such as a trained attention, where it fits; return whether it did."""
        if method != self.config.regularizer.name:
            return False
        stored = self.state["regularizer"]
        for site, state in insertion.state_dict().items():
            if site not in stored or shapes_of(state) != shapes_of(stored[site]):
                return False
        insertion.load_state_dict(stored)
        return True


def shapes_of(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def open_run(path: Path) -> TrainedRun:
    """Return the configuration and checkpoint of the run in a folder, finished or not.

    Raises:
        FolderError: The folder holds no run, or no checkpoint, or a damaged one.
        ConfigError: Its configuration is not valid.
    """
    folder = RunFolder(path)
    folder.check_has_trained()
    try:
        config = load_config(path / CONFIG)
        before, now = folder.read_contents(), config.contents()
    except ConfigError as error:
        copy = f"; {path / CODE} keeps a copy of the code" if (path / CODE).exists() else ""
        raise ConfigError(f"{error}{copy}") from error
    if before is not None:  # the network does not depend on the data
        now = {**now, **{source: parts for source, parts in before.items() if source in ("data", "data.name")}}
        if changed := changes(before, now):
            raise FolderError(f"{path} was trained with other code: {shortened(changed)}; name another run folder")
    state = load_checkpoint(path / CHECKPOINT, config.digest(now), hint="name another run folder")
    assert state is not None, "the file is there"
    return TrainedRun(path, config, state, (before or {}).get("data"))
