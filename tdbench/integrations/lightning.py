"""A callback for Lightning's Trainer: the schedule follows its optimizer steps, and it logs what was dropped."""

from typing import TYPE_CHECKING, Any

from tdbench.errors import ConfigError

if TYPE_CHECKING:
    from tdbench.models.insertion import Insertion

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback
    except ModuleNotFoundError:
        raise ConfigError(
            "tdbench.integrations.lightning needs lightning, which is not installed: pip install lightning"
        ) from None


class RegularizerCallback(Callback):
    """Raises the strength of inserted regularizers with the training, and logs `dropped_pct` at the end of each epoch.

    The schedule follows `trainer.global_step`, which checkpoints keep, over all steps that the Trainer is to do.

    Args:
        insertion: What `tdbench.insert` returned for the module, or a part of it.

    Raises:
        ConfigError: When training begins: the schedule is linear, and the Trainer has no end.
    """

    def __init__(self, insertion: "Insertion") -> None:
        self.insertion = insertion
        self._num_steps = 1.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._num_steps = float(trainer.estimated_stepping_batches)
        if self._num_steps == float("inf") and self.insertion.regularizer.schedule != "constant":
            raise ConfigError("max_epochs or max_steps must be given to the Trainer: a linear schedule rises over them")
        self.insertion.dropped_pct()  # what a sanity check or an earlier training dropped

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.insertion.set_progress(min(1.0, trainer.global_step / self._num_steps))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (dropped_pct := self.insertion.dropped_pct()) is not None:
            pl_module.log("dropped_pct", dropped_pct, on_step=False, on_epoch=True, sync_dist=True)
