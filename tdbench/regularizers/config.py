"""The base class of every method's configuration: name, sites, schedule, and how its layer is built."""

import re
from importlib import import_module
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import create_model, field_validator, model_validator

from tdbench.errors import ConfigError, OutOfRange
from tdbench.knobs import Section, about, as_json, knob
from tdbench.user_code import absolute


class RegularizerConfig(Section):
    """What all methods share; a method's folder declares a subclass with its own knobs and its name as a Literal.

    Attributes:
        layer_class: The layer's class in `layer.py`, beside the declaration, by its name; or, where the declaration may
            import torch, as a user's may, the class itself.
        strength_knob: The knob that `match` solves; None: the method has none.
        share_is_proportional: The dropped share is proportional to that knob.
        placement: Where the method belongs, which is also its default site: a feature map, the images, or each
            residual branch.
        groups: Of feature maps, at the outputs of which of the network's groups it stands where no site is named.
        revision: Rises where the algorithm of the layer changes, so that no run of before is taken for one of now.
    """

    layer_class: ClassVar[str | type] = ""
    strength_knob: ClassVar[str | None] = None
    share_is_proportional: ClassVar[bool] = False
    placement: ClassVar[Literal["feature_map", "input", "branch"]] = "feature_map"
    groups: ClassVar[Literal["first_two", "last_two", "last_but_one"]] = "first_two"
    revision: ClassVar[int] = 1

    name: str = knob("targetdrop", "method: a folder of regularizers/, or the user's own: file.py:MyDrop")
    sites: tuple[str, ...] | None = knob(
        None,
        "where it is put, as site names or patterns such as stage1.*; null: the method's own place, see `list METHOD`",
        rule="names or patterns of the model's sites",
        source="the method's, or tdbench's choice",
        sweep=("stage1", "stage2", "stage3", "stage1+stage2", "stage2+stage3", "stage1+stage2+stage3"),
    )

    schedule: Literal["constant", "linear"] = knob("constant", "how the strength rises: at once, or linearly from 0")
    ramp: float = knob(
        1.0,
        "share of the training steps over which a linear schedule rises",
        gt=0,
        le=1,
        sweep=(0.25, 0.5, 1.0),
        needs={"schedule": ("linear",)},
    )
    match: float | None = knob(
        None,
        "share of units, in per cent, that is to be dropped: the method's strength knob is solved for it by a "
        "calibration; null: the knob as it is",
        gt=0,
        le=100,
    )

    @classmethod
    def default_place(cls) -> str:
        """Return in words where the method stands where no site is named."""
        if cls.placement != "feature_map":
            return {"input": "the images", "branch": "every residual branch"}[cls.placement]
        groups = {"first_two": "s of the first two groups", "last_two": "s of the last two groups"}
        return f"the output{groups.get(cls.groups, ' of the last group but one')}"

    def build(self, channels: int, depth: float = 1.0) -> Any:
        """Return the layer, a `regularizers.base.Regularizer`; its module is imported here, and torch with it.

        Args:
            channels: C of the feature map.
            depth: Position of the site in the network's order, as a share in (0, 1].

        Raises:
            ConfigError: There is no such class.
        """
        layer = self.layer_class
        if not isinstance(layer, type):
            module = f"{type(self).__module__}.layer"
            try:
                layer = getattr(import_module(module), layer)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
                rule = "must give its layer as `layer_class`: the class itself, or its name in a layer.py beside it"
                raise ConfigError(f"{type(self).__name__} {rule}, got {layer!r}") from error
        return layer(**self.arguments(channels, depth))

    def arguments(self, channels: int, depth: float) -> dict[str, Any]:
        """Return the keyword arguments of the layer's constructor at one site."""
        return self.knobs()

    def knobs(self) -> dict[str, Any]:
        """Return the method's own knobs, without the fields that all methods share."""
        return self.model_dump(exclude=set(RegularizerConfig.model_fields))

    def strength_range(self) -> tuple[float, float]:
        """Return the bounds of the strength knob between which `match` searches."""
        return 0.0, 1.0

    def strength_at(self, progress: float) -> float:
        """Return the strength in [0, 1] after the share `progress` of the training steps."""
        return 1.0 if self.schedule == "constant" else min(1.0, progress / self.ramp)

    @model_validator(mode="before")
    @classmethod
    def _always_names_its_method(cls, data: Any) -> Any:
        """Set the name, so that a tree without defaults has it; a class that declares none is called by its own."""
        if not isinstance(data, dict) or "name" in data or cls is RegularizerConfig:
            return data
        field, inherited = cls.model_fields["name"], RegularizerConfig.model_fields["name"]
        has_none = (field.annotation, field.default) == (inherited.annotation, inherited.default)
        return data | {"name": cls.__name__ if has_none else field.default}

    @field_validator("name")
    @classmethod
    def _same_from_everywhere(cls, value: str) -> str:
        return absolute(value)

    @field_validator("sites", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        names = re.split("[,+]", value) if isinstance(value, str) else value
        if isinstance(names, (list, tuple)):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise OutOfRange("the names of one site or more", value)
            return tuple(name.strip() for name in names)
        return value

    @field_validator("match", mode="before")
    @classmethod
    def _of_the_dropped_share(cls, value: Any) -> Any:
        """Accept `dropped=1.5`, the command line's form of 1.5."""
        if isinstance(value, str):
            quantity, equals, share = value.partition("=")
            if not equals or quantity.strip() != "dropped":
                raise OutOfRange("dropped=PER_CENT, such as dropped=1.5", value)
            return share.strip()
        return value

    @model_validator(mode="after")
    def _has_a_knob_to_match(self) -> "RegularizerConfig":
        if self.match is not None and type(self) is not RegularizerConfig and self.strength_knob is None:
            raise ValueError(f"regularizer.match must be null for {self.name}, which has no strength knob to solve")
        return self


class Declaration(NamedTuple):
    """A method's declaration as plain data, which can be sent between processes.

    Attributes:
        title: Name of the configuration class.
        fields: Knob to (default or `...`, as JSON has it; description; what `knob` notes beside it).
        facts: The class attributes of `RegularizerConfig` by name.
    """

    title: str
    fields: dict[str, tuple[Any, str, dict[str, Any]]]
    facts: dict[str, Any]


_FACTS = ("strength_knob", "share_is_proportional", "placement", "groups", "revision")


def declaration_of(method: type[RegularizerConfig]) -> Declaration:
    shared = RegularizerConfig.model_fields
    fields = {
        name: (
            ... if field.is_required() else as_json(field.get_default(call_default_factory=True)),
            field.description or "",
            as_json(about(field)),
        )
        for name, field in method.model_fields.items()
        if name not in shared or field.default != shared[name].default
    }
    return Declaration(method.__name__, fields, {name: getattr(method, name) for name in _FACTS})


def declared(declaration: Declaration, base: type[RegularizerConfig]) -> type[RegularizerConfig]:
    """Return a configuration class built from a declaration, for planning where the method is not to be imported.

    It has the method's knobs, and takes any value for those that are its own.
    """
    shared = RegularizerConfig.model_fields
    fields: dict[str, Any] = {
        name: (shared[name].annotation if name in shared else Any, knob(default, description, **extra))
        for name, (default, description, extra) in declaration.fields.items()
    }
    made: type[RegularizerConfig] = create_model(declaration.title, __base__=base, **fields)
    for name, value in declaration.facts.items():
        setattr(made, name, value)
    return made
