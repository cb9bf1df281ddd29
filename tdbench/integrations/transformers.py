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


class RegularizerCallback(TrainerCallback):
    """Raises the strength of inserted regularizers with the training, and adds `dropped_pct` to each log of the loss.

    The schedule follows `state.global_step`, which checkpoints keep, over `state.max_steps`. `Trainer(callbacks=[...])`
    puts it behind what `report_to` names, so that `state.log_history` alone has `dropped_pct`; with `add_to` both do.

    Args:
        insertion: What `tdbench.insert` returned for the model, or a part of it.
    """

    def __init__(self, insertion: "Insertion") -> None:
        self.insertion = insertion

    def add_to(self, trainer: Any) -> None:
        """Add this to a Trainer, before the callbacks that report to loggers."""
        trainer.callback_handler.callbacks.insert(0, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.insertion.dropped_pct()  # what an earlier training dropped

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.insertion.set_progress(state.global_step / state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and (dropped_pct := self.insertion.dropped_pct()) is not None:
            logs["dropped_pct"] = dropped_pct
            state.log_history[-1]["dropped_pct"] = dropped_pct
