"""The optimizer and the schedule of its learning rate: ours, or a class of torch's by its name, with the knobs of that.

The knobs of such a class are further keys of the section, named as the parameters of its constructor:
`optimizer: {name: adamw, lr: 0.002, betas: [0.9, 0.95]}`.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from tdbench.config.torch_signatures import REQUIRED, optimizers, schedules
from tdbench.errors import ConfigError, OutOfRange, nearest, unknown
from tdbench.knobs import Section, knob
from tdbench.user_code import absolute, is_user_code, short_name, unnamed_code


class OpenSection(Section, extra="allow"):
    """A section whose `name` chooses a class, the knobs of which are its further keys.

    Attributes:
        stays: The keys that belong to no class, and stay where another one is chosen.
        set_here: Parameters of the classes' constructors that are no knobs: tdbench gives them itself.
    """

    stays: ClassVar[frozenset[str]]
    set_here: ClassVar[frozenset[str]]

    name: str

    @classmethod
    @abstractmethod
    def known_as(cls, name: str) -> str:
        """Return a name as it is written everywhere.

        Raises:
            ConfigError: There is no such class; the nearest one is named.
        """

    @classmethod
    @abstractmethod
    def parameters(cls, name: str) -> Mapping[str, Any]:
        """Return the knobs of the class of this name, with their defaults; none where only the lab knows them."""

    def knobs(self) -> dict[str, Any]:
        """Return the further keys that were given, by the names of the constructor's parameters; lists as tuples."""
        given = self.model_extra or {}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}

    @field_validator("name")
    @classmethod
    def _is_known(cls, value: str) -> str:
        return cls.known_as(value)

    @model_validator(mode="before")
    @classmethod
    def _knobs_are_of_their_kind(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("name", ""), str):
            return data
        given = {key: value for key, value in data.items() if key not in cls.model_fields}
        defaults = cls.parameters(cls.known_as(data["name"])) if given and "name" in data else {}
        return {**data, **{key: of_kind(f"{cls.title()}.{key}", given[key], defaults.get(key)) for key in given}}

    def uses(self) -> dict[str, str | None]:
        """Return, of the further keys, why each does nothing; None where it does something."""
        return {key: None if self.takes(key) else self.refusal(key) for key in self.knobs()}

    def refusal(self, key: str) -> str:
        """Return why a key that the class does not take must be left out, and which one may have been meant."""
        if key in self.set_here:
            return "must be left out: tdbench sets it itself"
        known = {*type(self).model_fields, *self.parameters(self.name)} - {key}
        meant = nearest(key, sorted(known)).replace("mean ", f"mean {self.title()}.")
        return f"must be left out: {short_name(self.name)} has no such knob{meant}"

    @classmethod
    def title(cls) -> str:
        """Return the section's own key."""
        return cls.__name__.removesuffix("Config").lower()

    def takes(self, key: str) -> bool:
        """Return whether the class has a knob of this name, as far as that is known here."""
        return key in self.parameters(self.name)


def of_kind(key: str, value: Any, default: Any) -> Any:
    """Return a knob's value, where it is of the kind of its default; numbers in text, `0.9,0.95`, as a list.

    Raises:
        ValueError: It is not.
    """
    if default is REQUIRED:  # of a schedule, all of which are numbers
        default = 0.0
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        try:
            pairs = [*zip(parts, default, strict=True)]
            return [
                None if one is None and part in (None, "null") else of_kind(key, part, one or 0.0)
                for part, one in pairs
            ]
        except (TypeError, ValueError):
            raise ValueError(f"{key} must be {len(default)} numbers, such as {list(default)}, got {value!r}") from None
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{key} {OutOfRange('true or false', value)}")
    elif isinstance(default, (int, float)):
        try:
            number = float(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"{key} {OutOfRange('a finite number', value)}")
        return number
    return value


_UNSUITABLE = {  # of torch.optim
    "lbfgs": "it computes the loss of a step several times",
    "muon": "it takes matrices only, and a convolution has four dimensions",
    "sparseadam": "it takes sparse gradients only",
    "rprop": "it takes the learning rate of its first step alone, and the signs of whole data sets' gradients",
}
_OWN = ("lr", "momentum", "nesterov", "weight_decay")  # of which each optimizer has defaults of its own


class OptimizerConfig(OpenSection):
    """The optimizer: its learning rate and decay, what is done to its gradients, and the average of its weights."""

    stays: ClassVar = frozenset(("name", "decay_norms_and_biases", "clip_norm", "ema_decay"))
    set_here: ClassVar = frozenset(("params", "foreach", "fused", "capturable", "differentiable", "maximize"))

    name: str = knob(
        "sgd",
        "sgd, adamw, adam, rmsprop or another class of torch.optim, or the user's own: file.py:make_optimizer",
        sweep=("sgd", "adamw", "adam", "rmsprop"),
    )
    lr: float | None = knob(
        0.1, "peak learning rate; of other optimizers than sgd torch's default", gt=0, sweep=(0.03, 0.1, 0.3)
    )
    momentum: float | None = knob(0.9, "momentum, where the optimizer has it; of others than sgd torch's", ge=0, lt=1)
    nesterov: bool | None = knob(True, "Nesterov momentum, where the optimizer has it", sweep=(False, True))
    weight_decay: float | None = knob(
        5e-4,
        "weight decay, on every weight; of other optimizers than sgd torch's default",
        ge=0,
        sweep=(0.0, 1e-4, 5e-4, 1e-3),
    )
    decay_norms_and_biases: bool = knob(
        True, "weight decay on norms and biases too; false: only on weights of two dimensions and more"
    )
    clip_norm: float | None = knob(
        None, "the norm of all gradients together is cut to this; null: left as it is", gt=0, sweep=(0.5, 1.0, 5.0)
    )
    ema_decay: float | None = knob(
        None,
        "decay of an exponential moving average of weights and BatchNorm's statistics, for test_error_pct_ema; null: "
        "none",
        ge=0,
        lt=1,
        sweep=(0.99, 0.999),
    )

    @classmethod
    def known_as(cls, name: str) -> str:
        if is_user_code(name):
            return absolute(name)
        if name != "sgd" and name.lower() not in optimizers():
            usual = dict.fromkeys(
                ("sgd", "adamw", "adam", "rmsprop", *sorted(optimizers().keys() - _UNSUITABLE.keys()))
            )
            raise ConfigError(unnamed_code(name) or unknown("optimizer", name, [*usual, "FILE.py:NAME"]))
        if why := _UNSUITABLE.get(name.lower()):
            raise ConfigError(f"optimizer.name must not be {name}: {why}")
        return name.lower()

    @classmethod
    def parameters(cls, name: str) -> Mapping[str, Any]:
        known = {} if is_user_code(name) else optimizers()[name]
        return {key: default for key, default in known.items() if key not in cls.set_here}

    def arguments(self) -> dict[str, Any]:
        """Return what the optimizer's constructor is given, beside the weights."""
        given = {key: getattr(self, key) for key in _OWN} | self.knobs()
        is_own = is_user_code(self.name)
        return {key: value for key, value in given.items() if value is not None and (is_own or self.takes(key))}

    @property
    def can_be_recorded(self) -> bool:
        """Whether a CUDA graph may hold its step: torch then keeps all that changes on the GPU."""
        return self.name == "sgd" or (not is_user_code(self.name) and "capturable" in optimizers()[self.name])

    @model_validator(mode="before")
    @classmethod
    def _has_defaults_of_its_own(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("name", ""), str):
            return data
        name = cls.known_as(data.get("name", "sgd"))
        if name == "sgd":
            return data
        defaults = cls.parameters(name)
        return dict(data) | {key: defaults.get(key) for key in _OWN if data.get(key) is None}

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "OptimizerConfig":
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov must be false where momentum is 0, got true")
        return self

    def uses(self) -> dict[str, str | None]:
        own = [key for key in _OWN if getattr(self, key) is not None]
        idle = "must be left at true, got false: there is no weight decay to leave out"
        decays = not self.decay_norms_and_biases and not is_user_code(self.name) and not self.weight_decay
        return (
            super().uses()
            | {key: None if self.takes(key) else self.refusal(key) for key in own}
            | ({"decay_norms_and_biases": idle} if decays else {})
        )

    def takes(self, key: str) -> bool:
        if self.name == "sgd" and key in _OWN:  # known without a look at torch
            return True
        return is_user_code(self.name) or super().takes(key)


_OUR_SCHEDULES = ("cosine", "milestones", "constant")
_NOT_ALONE = {  # of torch.optim.lr_scheduler
    "LambdaLR": "it takes a function",
    "MultiplicativeLR": "it takes a function",
    "SequentialLR": "it takes other schedules",
    "ChainedScheduler": "it takes other schedules",
    "ReduceLROnPlateau": "it follows a measured loss, so that runs of one seed would differ in their rates",
    "MultiStepLR": "schedule.name=milestones does that, with schedule.milestones and schedule.factor",
    "ConstantLR": "it is of use within another schedule only; ours is schedule.name=constant",
    "LRScheduler": "it is the base of the others",
    "CyclicLR": "it sets rates of its own, whatever optimizer.lr is",
    "OneCycleLR": "it sets rates of its own, whatever optimizer.lr is; schedule.name=cosine rises and falls too",
}


class ScheduleConfig(OpenSection):
    """The learning rate over the run, after a linear warm-up."""

    stays: ClassVar = frozenset(("name", "warmup_epochs", "milestones", "factor"))
    set_here: ClassVar = frozenset(("optimizer", "last_epoch", "cycle_momentum", "base_momentum", "max_momentum"))

    name: str = knob(
        "cosine",
        "shape after the warm-up: cosine, milestones, constant, or a class of torch.optim.lr_scheduler",
        sweep=_OUR_SCHEDULES,
    )
    warmup_epochs: float = knob(1.0, "length of the linear warm-up in epochs", ge=0)
    milestones: tuple[float, ...] = knob(
        (0.3, 0.6, 0.8), "shares of the run at which the rate is multiplied by factor", needs={"name": ("milestones",)}
    )
    factor: float = knob(
        0.2, "what the rate is multiplied by at each milestone", gt=0, le=1, needs={"name": ("milestones",)}
    )
    per: Literal["epoch", "step"] = knob("epoch", "how often a schedule of torch's goes on")

    @classmethod
    def known_as(cls, name: str) -> str:
        if name in _OUR_SCHEDULES:
            return name
        known = {one.lower(): one for one in (*_OUR_SCHEDULES, *schedules())}
        found = known.get(name.lower())
        if found is None:
            suitable = [one for one in known.values() if one not in _NOT_ALONE]
            close = nearest(name, known).removesuffix("?").rpartition(" ")[2]
            guess = f"; did you mean {known[close]}?" if close in known else ""
            raise ConfigError(f"unknown schedule {name!r}{guess} (known: {', '.join(suitable)})")
        if found in _NOT_ALONE:
            raise ConfigError(f"schedule.name must not be {found}: {_NOT_ALONE[found]}")
        return found

    @classmethod
    def parameters(cls, name: str) -> Mapping[str, Any]:
        known = {} if name in _OUR_SCHEDULES else schedules()[name]
        return {key: default for key, default in known.items() if key not in cls.set_here}

    @property
    def is_ours(self) -> bool:
        """Whether it is no class of torch's."""
        return self.name in _OUR_SCHEDULES

    @field_validator("milestones")
    @classmethod
    def _rising_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not all(0 < share < 1 for share in value):
            raise OutOfRange("rising shares between 0 and 1", list(value))
        return value

    @model_validator(mode="after")
    def _has_what_it_must_be_given(self) -> "ScheduleConfig":
        for key, default in self.parameters(self.name).items():
            if default is REQUIRED and key not in self.knobs():
                given = ", ".join(self.knobs()) or "none"
                raise ValueError(f"schedule.{key} must be given where schedule.name is {self.name}, got {given}")
        return self

    def uses(self) -> dict[str, str | None]:
        idle = f"must be left at epoch, got {self.per}: {self.name} goes on with each step"
        return super().uses() | ({"per": idle if self.is_ours else None} if self.per != "epoch" else {})
