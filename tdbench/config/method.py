"""What every method's configuration has, and how a method is found by its name.

A method's own knobs are declared beside the method, in its file under `regularizers/`. Methods are plug-ins:
`find_method` imports that one file by name, so that this module stands below them and names none of them.
"""

import importlib
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from tdbench.config.knobs import Section, knob
from tdbench.config.user_code import is_user_code
from tdbench.errors import ConfigError, unknown


class RegularizerConfig(Section):
    """What every method has; a method's file subclasses this, with its own knobs and its name as a Literal."""

    name: str = knob("targetdrop", "method: a file name of regularizers/, or the user's own: file.py:MyDrop")
    sites: tuple[str, ...] | None = knob(
        None,
        "where it is put, as site names or patterns such as stage1.*; null: the outputs of the first two groups",
        rule="names or patterns of the model's sites",
        source="tdbench's choice",
        sweep=("stage1", "stage2", "stage3", "stage1+stage2", "stage2+stage3", "stage1+stage2+stage3"),
    )

    schedule: Literal["constant", "linear"] = knob("constant", "how the strength rises: at once, or linearly from 0")
    ramp: float = knob(
        1.0, "share of the training steps over which a linear schedule rises", gt=0, le=1, sweep=(0.25, 0.5, 1.0)
    )
    match: float | None = knob(
        None,
        "share of units, in per cent, that is to be dropped: the method's strength knob is solved for it by a "
        "calibration; null: the knob as it is",
        gt=0,
        le=100,
    )

    # The knob that `match` solves, None where a method has none; and whether the dropped share is proportional to it.
    strength_knob: ClassVar[str | None] = None
    share_is_proportional: ClassVar[bool] = False

    # Where the method belongs, which is also its default site: a feature map, the images, or each residual branch.
    placement: ClassVar[Literal["feature_map", "input", "branch"]] = "feature_map"

    def build(self, channels: int, depth: float = 1.0) -> Any:
        """Return the layer, a `regularizers.base.Regularizer`.

        Args:
            channels: C of the feature map.
            depth: Which of the sites it is, in the network's order, as a share in (0, 1].
        """
        raise NotImplementedError

    def knobs(self) -> dict[str, Any]:
        """Return the method's own knobs, without what every method has."""
        return self.model_dump(exclude=set(RegularizerConfig.model_fields))

    def strength_range(self) -> tuple[float, float]:
        """Return the values of the strength knob between which `match` looks."""
        return 0.0, 1.0

    def strength_at(self, progress: float) -> float:
        """Return the share of its full strength that the method has after the share `progress` of the training."""
        return 1.0 if self.schedule == "constant" else min(1.0, progress / self.ramp)

    @field_validator("sites", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        names = re.split("[,+]", value) if isinstance(value, str) else value
        if isinstance(names, (list, tuple)):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise ValueError(f"must name at least one site, got {value!r}")
            return tuple(name.strip() for name in names)
        return value

    @field_validator("match", mode="before")
    @classmethod
    def _of_the_dropped_share(cls, value: Any) -> Any:
        """Take `dropped=1.5`, as the command line writes it, for 1.5."""
        if isinstance(value, str):
            quantity, equals, share = value.partition("=")
            if not equals or quantity.strip() != "dropped":
                raise ValueError(f"must be dropped=PER_CENT, such as dropped=1.5, got {value!r}")
            return share.strip()
        return value

    @model_validator(mode="after")
    def _has_a_knob_to_match(self) -> "RegularizerConfig":
        if self.match is not None and type(self) is not RegularizerConfig and self.strength_knob is None:
            raise ValueError(f"regularizer.match must be null for {self.name}, which has no strength knob to solve")
        return self


def method_names() -> list[str]:
    """Return the names of the methods: the file names of `regularizers/`. `<method>_triton` and `_cpu` hold kernels."""
    folder = Path(__file__).parents[1] / "regularizers"
    names = {path.stem for path in folder.glob("*.py")} - {"base"}
    kernels = {f"{name}_{where}" for name in names for where in ("triton", "cpu")}
    return sorted(name for name in names - kernels if not name.startswith("_"))


def find_method(name: str) -> type[RegularizerConfig]:
    """Return the configuration class of a method, imported from the file that bears its name, or the user's own.

    Raises:
        ConfigError: No file of `regularizers/` has this name; or the user's file does not give it.
    """
    if is_user_code(name):
        return importlib.import_module("tdbench.regularizers._user").user_method(name)
    if name not in method_names():
        raise ConfigError(unknown("regularizer", name, method_names()))
    module = importlib.import_module(f"tdbench.regularizers.{name}")
    declared = (entry for entry in vars(module).values() if isinstance(entry, type))
    return next(
        entry for entry in declared if issubclass(entry, RegularizerConfig) and entry.__module__ == module.__name__
    )
