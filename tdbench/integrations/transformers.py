"""A callback for Hugging Face's Trainer: the schedule follows its optimizer steps, and it logs what was dropped."""

from typing import TYPE_CHECKING, Any

from tdbench.errors import ConfigError

if TYPE_CHECKING:
    from tdbench.models.insertion import Insertion

try:
    from transformers import TrainerCallback
except ModuleNotFoundError:
    raise ConfigError(
        "tdbench.integrations.transformers needs transformers, which is not installed: pip install transformers"
    ) from None

STATE = "tdbench_regularizers"  # in `state.stateful_callbacks`: the state of the layers, as JSON takes it


class RegularizerCallback(TrainerCallback):
    """Raises the strength of inserted regularizers with the training, and adds `dropped_pct` to each log of the loss.

    The schedule follows `state.global_step`, which checkpoints keep, over `state.max_steps`. The weights of the layers,
    which are not among the network's, are in the `trainer_state.json` of a checkpoint. `Trainer(callbacks=[...])` puts
    it behind what `report_to` names, so that `state.log_history` alone has `dropped_pct`; with `add_to` both do.

    Args:
        insertion: What `tdbench.insert` returned for the model, or a part of it.

    Raises:
        ConfigError: `insertion` is something else; or, when training begins, the checkpoint is of other layers.
    """

    def __init__(self, insertion: "Insertion") -> None:
        from tdbench.models.insertion import insertion_of

        self.insertion = insertion_of(insertion)

    def add_to(self, trainer: Any) -> None:
        """Add this to a Trainer, before the callbacks that report to loggers."""
        trainer.callback_handler.callbacks.insert(1, self)  # behind the one that says when to save

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.insertion.dropped_pct()  # what an earlier training dropped
        if kept := state.stateful_callbacks.get(STATE):
            self.insertion.restore(kept)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.insertion.set_progress(state.global_step / state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:
            self._keep_state(state)

    on_epoch_end = on_step_end

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._keep_state(state)  # of what may be the best checkpoint

    def _keep_state(self, state: Any) -> None:
        kept = self.insertion.state_dict()
        if any(kept.values()):
            state.stateful_callbacks[STATE] = {
                site: {name: one.tolist() for name, one in layer.items()} for site, layer in kept.items()
            }

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and (dropped_pct := self.insertion.dropped_pct()) is not None:
            logs["dropped_pct"] = dropped_pct
            state.log_history[-1]["dropped_pct"] = dropped_pct
