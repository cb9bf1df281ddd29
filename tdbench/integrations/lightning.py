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

STATE = "tdbench_regularizers"  # in a checkpoint: of each callback, in their order, the state of its layers


class RegularizerCallback(Callback):
    """Raises the strength of inserted regularizers with the training, and logs `dropped_pct` at the end of each epoch.

    The schedule follows `trainer.global_step`, which checkpoints keep, over all steps that the Trainer is to do. The
    weights of the layers, which are not among the network's, are in the checkpoints too.

    Args:
        insertion: What `tdbench.insert` returned for the module, or a part of it.

    Raises:
        ConfigError: `insertion` is something else. When training begins: the schedule is linear, and the Trainer has no
            end; or it goes on from a checkpoint of other layers.
    """

    def __init__(self, insertion: "Insertion") -> None:
        from tdbench.models.insertion import insertion_of

        self.insertion = insertion_of(insertion)
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

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # And not `state_dict`, with which Lightning refuses two callbacks of a class.
        checkpoint.setdefault(STATE, []).append(self.insertion.state_dict())

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        own = [one for one in trainer.callbacks if isinstance(one, RegularizerCallback)].index(self)
        if own < len(states := checkpoint.get(STATE, [])):
            self.insertion.restore(states[own])
