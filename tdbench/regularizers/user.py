"""The user's own method, from `file.py:NAME` or from Python: any nn.Module, a `Regularizer`, or a configuration.

The knobs are the parameters of the class's constructor; one called `channels` is given C of the feature map.
"""

import copy
import inspect
from functools import cache
from typing import Any, ClassVar, get_type_hints

import torch
from pydantic import (
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from torch import Tensor, nn

from tdbench.config.loading import explain
from tdbench.errors import ConfigError, TdbenchError
from tdbench.knobs import knob
from tdbench.regularizers.base import Regularizer
from tdbench.regularizers.config import RegularizerConfig
from tdbench.user_code import absolute, code_of, load_object, reason_of

STRENGTHS = ("p", "drop_ratio", "drop_prob", "drop_rate", "rate", "prob")  # --match solves the first one present


class UserLayer(Regularizer):
    """A user's module as a layer. It is called in evaluation too, where its behaviour is its own.

    Its mask is unknown. A unit that was already zero cannot show whether it was dropped, so the share is estimated from
    the other units.
    """

    counts_exactly = False

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.module(x)
        return super().forward(x)

    def drop(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the module's output, and the estimated number of dropped units.

        Raises:
            TdbenchError: The output is not a tensor of the shape of `x`.
        """
        out = self.module(x)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise TdbenchError(f"{type(self.module).__name__} must return a tensor of {tuple(x.shape)}, got {got}")
        before, after = x.detach() != 0, out.detach() != 0
        wide = torch.float32 if x.device.type == "mps" else torch.float64  # which Apple's GPUs lack
        share = (before & ~after).sum().to(wide) / before.sum().clamp(min=1)
        share = torch.where(before.any(), share, (~after).to(wide).mean())  # of a map that a layer before it emptied
        return out, (share * x.numel()).round().long()


def as_layer(module: nn.Module) -> Regularizer:
    """Return the module itself if it is a Regularizer, else a UserLayer around it."""
    return module if isinstance(module, Regularizer) else UserLayer(module)


class UserConfig(RegularizerConfig):
    """What all user methods share; `config_for` adds the knobs."""

    entry: ClassVar[type[nn.Module]]

    name: str = knob("", "the user's own method, file.py:NAME")

    @model_validator(mode="after")
    def _only_a_regularizer_rises(self) -> "UserConfig":
        if self.schedule != "constant" and not issubclass(self.entry, Regularizer):
            raise ValueError(
                f"regularizer.schedule must be constant, got {self.schedule!r}: {self.entry.__name__} is no "
                "tdbench.Regularizer, whose `strength` follows a schedule"
            )
        return self

    def strength_range(self) -> tuple[float, float]:
        """Return bounds below 1, where kept units would often be divided by 0."""
        return 0.0, 0.99

    def build(self, channels: int, depth: float = 1.0) -> Regularizer:
        """Return the layer for `channels` channels.

        Raises:
            ConfigError: The user's constructor raises; its own error is given.
        """
        known = {"channels": channels} if "channels" in inspect.signature(self.entry).parameters else {}
        try:
            layer = self.entry(**known, **self.knobs())
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{self.name} cannot be built: {reason_of(error)}") from error
        return as_layer(layer)


def user_method(name: str) -> type[RegularizerConfig]:
    """Return the configuration class of the user's own method `file.py:NAME`.

    Raises:
        ConfigError: The file does not import, lacks the name, or the object is not a layer class.
    """
    return versioned_config(absolute(name), code_of(name).digest)


@cache
def versioned_config(name: str, digest: str) -> type[RegularizerConfig]:
    """Return the configuration class of one version of the user's file."""
    return config_for(load_object(name), name)


def config_for(entry: Any, name: str) -> type[RegularizerConfig]:
    """Return the configuration class of a user's layer class; a configuration class is returned itself.

    Raises:
        ConfigError: It is neither, or its constructor has parameters that a configuration cannot hold.
    """
    if isinstance(entry, type) and issubclass(entry, RegularizerConfig):
        return entry if name == entry.__name__ else named(entry)
    if not (isinstance(entry, type) and issubclass(entry, nn.Module)):
        what = f"class {entry.__name__}" if isinstance(entry, type) else type(entry).__name__
        raise ConfigError(f"{name} must be a subclass of nn.Module, got {what}")
    fields = knobs_from_constructor(name, entry)
    strength = next((knob for knob in STRENGTHS if knob in fields), None)
    made: type[UserConfig] = create_model(entry.__name__, __base__=UserConfig, **fields)
    made.entry, made.strength_knob = entry, strength
    return made


def named(entry: type[RegularizerConfig]) -> type[RegularizerConfig]:
    """Return a configuration class of the user's whose name is `file.py:NAME`, not one of tdbench's own methods."""
    name: Any = (str, knob("", "the user's own method, file.py:NAME"))
    return create_model(entry.__name__, __base__=entry, __module__=entry.__module__, name=name)


class ModuleConfig(RegularizerConfig):
    """A user's module, of which every site gets a copy."""

    module: ClassVar[nn.Module]

    name: str = knob("", "name of the module's class")

    def build(self, channels: int, depth: float = 1.0) -> Regularizer:
        return as_layer(copy.deepcopy(self.module))


def configured(
    method: RegularizerConfig | type[RegularizerConfig] | type[nn.Module] | nn.Module, knobs: dict[str, Any]
) -> RegularizerConfig:
    """Return the configuration of a method that is given as a configuration, a class or a module.

    Args:
        method: A configuration or its class; a layer class, whose constructor's parameters are the knobs; or a module,
            of which every site gets a copy.
        knobs: The knobs of a class.

    Raises:
        ConfigError: `method` is none of these, or a knob is unknown, out of range, or not accepted.
    """
    if isinstance(method, type):
        kind = config_for(method, method.__name__)
        given = knobs if issubclass(method, RegularizerConfig) else {"name": method.__name__, **knobs}
        return configure(kind, given)
    if knobs:
        raise ConfigError(f"{', '.join(knobs)} must not be given beside {type(method).__name__}, which has its knobs")
    if isinstance(method, RegularizerConfig):
        return method
    if not isinstance(method, nn.Module):
        raise ConfigError(
            "regularizer must be a method's name, a configuration, a module or a class of one, got "
            f"{type(method).__name__}"
        )
    one_module: type[ModuleConfig] = create_model(type(method).__name__, __base__=ModuleConfig)
    one_module.module = method
    return one_module(name=type(method).__name__)


def configure(kind: type[RegularizerConfig], given: dict[str, Any]) -> RegularizerConfig:
    """Return a configuration of this class.

    Raises:
        ConfigError: A knob is unknown or out of range.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        lines = [explain(one, kind.model_fields, lambda key: None) for one in error.errors()]
        raise ConfigError("\n".join(f"{kind.__name__}: {line}" for line in lines)) from error


def knobs_from_constructor(name: str, entry: type[nn.Module]) -> dict[str, Any]:
    """Return pydantic's field definitions for the parameters of a constructor that a configuration can hold."""
    try:
        hints = get_type_hints(entry.__init__)
    except Exception:  # an annotation cannot be evaluated
        hints = {}
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(entry).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name == "channels":
            continue
        if parameter.name in RegularizerConfig.model_fields:
            raise ConfigError(f"{name}: a knob must not be called {parameter.name!r}, which every method has")
        required = parameter.default is parameter.empty
        hint = hints.get(parameter.name, Any if required or parameter.default is None else type(parameter.default))
        try:
            TypeAdapter(hint)
        except PydanticSchemaGenerationError:
            if required:
                raise ConfigError(f"{name}: a configuration cannot hold the parameter {parameter.name!r}") from None
            continue
        fields[parameter.name] = (hint, ... if required else knob(parameter.default, f"a knob of {entry.__name__}"))
    return fields
