"""The optimizer of a run: one of torch's, without what it does for torch.compile's sake, or the user's own."""

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tdbench.config import OptimizerConfig
from tdbench.errors import ConfigError, line_of, nearest
from tdbench.user_code import is_user_code, load_object, reason_of, short_name

_BARE = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # on CPUs and on CUDA; of others torch takes foreach


@cache
def bare(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return a class of torch's optimizers with its methods as they were written, out of their wrappers.

    Their first call through them imports torch._dynamo, and sympy and torch._inductor with it, which takes as long as
    to import torch, and 143 MiB. They are there for optimizers that are compiled, and a network that is compiled has no
    need of them either. Where a torch has no wrappers, its methods are what they are.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _BARE}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, device: torch.device, is_recorded: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer of a run, in torch's fused form where the device has one.

    Args:
        model: What is trained, on its device.
        config: Which optimizer, and its knobs.
        device: Where the weights are.
        is_recorded: A CUDA graph is to hold its step, so that all that changes has to stay on the GPU.

    Raises:
        ConfigError: There is no weight to train, a knob has a value that the optimizer refuses, or the user's own
            cannot be made.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError("the network has no weight to train: requires_grad must be true of one at least")
    weights = weight_groups(model, config)
    if is_user_code(config.name):
        return users_optimizer(config, model, weights)
    kind = {name.lower(): entry for name, entry in vars(torch.optim).items()}[config.name]
    given = config.arguments()
    if issubclass(kind, _FUSED):
        given["fused"] = device.type in ("cpu", "cuda")
    if is_recorded and config.name != "sgd":
        given["capturable"] = True
    try:
        optimizer = bare(kind)(weights, **given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer.name {config.name} refuses its knobs: {line_of(error, with_type=False)}"
        ) from error
    # Fused SGD fails where one weight's first gradient comes late; a first one is not dampened, as a zero would be.
    if config.name == "sgd" and config.momentum and not config.knobs().get("dampening"):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def weight_groups(model: nn.Module, config: OptimizerConfig) -> list[Any]:
    """Return the weights as optimizers take them: one group, or a second one for those that do not decay."""
    weights = list(model.parameters())
    if config.decay_norms_and_biases:
        return weights
    decaying, kept = [one for one in weights if one.dim() > 1], [one for one in weights if one.dim() <= 1]
    return [{"params": decaying}, {"params": kept, "weight_decay": 0.0}]


def check_optimizer(config: OptimizerConfig) -> None:
    """Check that the user's own optimizer is there and takes the knobs that are given, before anything is loaded.

    Raises:
        ConfigError: It is not, or does not.
    """
    if not is_user_code(config.name):
        return
    factory = load_object(config.name)
    if not callable(factory):
        raise ConfigError(f"{config.name} must be a function that makes an optimizer, got {type(factory).__name__}")
    parameters = inspect.signature(factory).parameters
    if not config.decay_norms_and_biases and next(iter(parameters), None) == "model":
        raise ConfigError(
            f"optimizer.decay_norms_and_biases must be true for {short_name(config.name)}, which is given the network "
            "and makes groups of its own, got false"
        )
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for key in config.arguments():
        if key not in list(parameters)[1:]:
            raise ConfigError(
                f"optimizer.{key} must be left out: {config.name} has no such knob{nearest(key, list(parameters)[1:])}"
            )


def users_optimizer(config: OptimizerConfig, model: nn.Module, weights: list[Any]) -> torch.optim.Optimizer:
    """Return the user's optimizer: their function is given the weights, or the network where it says `model`.

    Raises:
        ConfigError: It raises (its own error is given), or returns something else.
    """
    check_optimizer(config)
    factory = load_object(config.name)
    wants_network = next(iter(inspect.signature(factory).parameters), None) == "model"
    try:
        optimizer = factory(model if wants_network else weights, **config.arguments())
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{config.name} cannot be made: {reason_of(error)}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"{config.name} must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError(
            f"{config.name} must return an optimizer whose step needs no closure, got {type(optimizer).__name__}, "
            "which computes the loss of a step itself"
        )
    if not all("lr" in group for group in optimizer.param_groups):
        raise ConfigError(f"{config.name} must return an optimizer whose groups have a learning rate, lr")
    return optimizer


class LearningRates:
    """The learning rates of an optimizer's groups, each of which follows the schedule from a peak of its own.

    Args:
        optimizer: As it was made, its rates the peaks.
        device: Where the rates are to be kept, for a recorded step to read them; None: numbers serve.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device | None = None) -> None:
        self._groups: Callable[[], Iterable[dict[str, Any]]] = lambda: optimizer.param_groups  # new ones, once loaded
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self._kept: list[Tensor] | None = None
        if device is not None:
            self._kept = [torch.tensor(peak, dtype=torch.float32, device=device) for peak in self.peaks]

    def set(self, rate_from: Callable[[float], float]) -> None:
        """Set the rates of the next step.

        Args:
            rate_from: Returns the rate that follows from a peak.
        """
        for number, (group, peak) in enumerate(zip(self._groups(), self.peaks, strict=True)):
            rate = rate_from(peak)
            group["lr"] = rate if self._kept is None else self._kept[number].fill_(rate)
