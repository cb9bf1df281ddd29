"""The typed tree that describes one run, and the digest that names it.

A method's own knobs are declared beside the method, in its file under `regularizers/`. Methods are plug-ins:
`find_method` imports that one file by name, so that this module stands below them and names none of them.
"""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from tdbench.errors import ConfigError, nearest, unknown

# Digests change with this, because a release may change what a configuration gives.
RESULTS_VERSION = "0.1"


def knob(default: Any, description: str, **extra: Any) -> Any:
    """Declare a field: pydantic's constraints (`ge`, `le`, ...) and what `tdbench list` and sweeps want to know.

    Args:
        default: The default value.
        description: One line, with the unit.
        **extra: Field constraints; and `source` (where the default comes from), `aliases` (other names on the
            command line), `rule` (the range in words, where constraints cannot say it), `identity=False` for a
            field that changes where or how fast a run goes but not which run it is.
    """
    own: dict[str, Any] = {key: extra.pop(key) for key in ("source", "aliases", "rule", "identity") if key in extra}
    return Field(default, description=description, json_schema_extra=own or None, **extra)


class Section(BaseModel):
    """A frozen branch of the tree that refuses unknown keys, NaN, and booleans where numbers belong."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: Any) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError(f"must not be true or false, got {str(value).lower()}")
        return value


class DataConfig(Section):
    """Which images, and how many of them."""

    name: str = knob("digits", "data set")
    root: Path = knob(Path("data"), "folder of the data sets' files", identity=False)
    train_fraction: float = knob(
        1.0, "share of the training images used, balanced over classes", gt=0, le=1, rule="0 < F <= 1"
    )
    image_size: int = knob(32, "side in pixels to which the images of a folder are resized", ge=8, le=4096)
    resident_mib: int = knob(
        4096,
        "training sets up to this size are held on the device; larger ones are streamed",
        ge=0,
        identity=False,
    )
    num_workers: int = knob(2, "processes that decode the images of a folder", ge=0, le=256, identity=False)

    @field_validator("root")
    @classmethod
    def _same_from_everywhere(cls, value: Path) -> Path:
        return Path(os.path.abspath(os.path.expanduser(value)))


class AugmentConfig(Section):
    """Random changes to whole training batches."""

    crop_padding: int | None = knob(
        None, "zero-padding in pixels before a random crop; null: an eighth of the side", ge=0
    )
    flip: bool | None = knob(None, "random horizontal flips; null: where a mirrored image keeps its class")


class ModelConfig(Section):
    """The network."""

    name: str = knob("resnet8", "network")


class RegularizerConfig(Section):
    """What every method has; a method's file subclasses this, with its own knobs and its name as a Literal."""

    name: str = knob("targetdrop", "method: a file name of regularizers/")
    sites: tuple[str, ...] | None = knob(
        None,
        "where it is put, as site names or patterns such as stage1.*; null: the outputs of the first two groups",
        rule="names or patterns of the model's sites",
        source="tdbench's choice",
    )

    schedule: Literal["constant", "linear"] = knob("constant", "how the strength rises: at once, or linearly from 0")
    ramp: float = knob(1.0, "share of the training steps over which a linear schedule rises", gt=0, le=1)

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

    def strength_at(self, progress: float) -> float:
        """Return the share of its full strength that the method has after the share `progress` of the training."""
        return 1.0 if self.schedule == "constant" else min(1.0, progress / self.ramp)

    @field_validator("sites", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        if isinstance(names, (list, tuple)):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise ValueError(f"must name at least one site, got {value!r}")
            return tuple(name.strip() for name in names)
        return value


class OptimizerConfig(Section):
    """Stochastic gradient descent."""

    lr: float = knob(0.1, "peak learning rate", gt=0)
    momentum: float = knob(0.9, "momentum", ge=0, lt=1)
    nesterov: bool = knob(True, "Nesterov momentum")
    weight_decay: float = knob(5e-4, "weight decay, on every weight", ge=0)

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "OptimizerConfig":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov must be false where momentum is 0, got true")
        return self


class ScheduleConfig(Section):
    """The learning rate over the run, after a linear warm-up."""

    name: Literal["cosine", "milestones", "constant"] = knob("cosine", "shape after the warm-up")
    warmup_epochs: float = knob(1.0, "length of the linear warm-up in epochs", ge=0)
    milestones: tuple[float, ...] = knob((0.3, 0.6, 0.8), "shares of the run at which the rate is multiplied by factor")
    factor: float = knob(0.2, "what the rate is multiplied by at each milestone", gt=0, le=1)

    @field_validator("milestones")
    @classmethod
    def _rising_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not all(0 < share < 1 for share in value):
            raise ValueError(f"must be rising shares between 0 and 1, got {list(value)}")
        return value


class TrainingConfig(Section):
    """How long, and in which portions."""

    epochs: int = knob(20, "passes over the training images", ge=1)
    max_steps: int | None = knob(None, "stop after this many optimizer steps, the schedules scaled to it", ge=1)
    batch_size: int = knob(64, "images per optimizer step", ge=1)
    eval_every: int = knob(1, "evaluate each so many epochs; the last one always", ge=1)
    label_smoothing: float = knob(0.0, "label smoothing", ge=0, lt=1)


class HardwareConfig(Section):
    """Where the run goes, and in which arithmetic."""

    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps", rule="auto | cpu | cuda | cuda:N | mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = knob("auto", "auto: bf16 where the hardware has it, else fp32")
    memory_format: Literal["channels_last", "contiguous"] = knob("channels_last", "order of a batch in memory")
    compile: bool = knob(False, "compile the network with torch.compile")
    threads: int | None = knob(None, "CPU threads; null: torch's own choice", ge=1, le=1024, identity=False)
    deterministic: bool = knob(False, "deterministic algorithms only; slower on a GPU")

    @field_validator("device")
    @classmethod
    def _device_exists_in_torch(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
            guess = nearest(value, ["auto", "cpu", "cuda", "mps"])
            raise ValueError(f"must be auto, cpu, cuda, cuda:N or mps, got {value!r}{guess}")
        return value


class RunConfig(Section):
    """One run: everything that `tdbench train` needs to repeat it."""

    seed: int = knob(0, "of the weights, the data order, the augmentation and the regularizer", ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    regularizer: SerializeAsAny[RegularizerConfig] = Field(RegularizerConfig(), validate_default=True)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    hardware: HardwareConfig = HardwareConfig()

    @field_validator("regularizer", mode="wrap")
    @classmethod
    def _typed_by_its_method(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> RegularizerConfig:
        if type(value) is RegularizerConfig:
            value = value.model_dump(exclude_unset=True)
        if isinstance(value, Mapping):
            name = value.get("name", RegularizerConfig.model_fields["name"].default)
            return find_method(str(name)).model_validate(dict(value))
        return handler(value)

    def dump(self) -> dict[str, Any]:
        """Return the tree as plain YAML and JSON types."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return the dotted keys and values that make this run this run, and no other."""
        fields = known_keys(type(self.regularizer))
        values = flatten(self.dump())
        kept = {key for key in values if about(fields[key]).get("identity", True)}
        if self.data.name == "folder":  # there the place is the data set
            kept.add("data.root")
        return {key: values[key] for key in values if key in kept}

    def digest(self) -> str:
        """Return 12 hexadecimal digits that two runs share exactly if they are the same experiment."""
        text = json.dumps([RESULTS_VERSION, self.identity()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def method_names() -> list[str]:
    """Return the names of the methods: the file names of `regularizers/`. A `<method>_triton` holds its kernels."""
    folder = Path(__file__).parents[1] / "regularizers"
    names = {path.stem for path in folder.glob("*.py")} - {"base"}
    kernels = {f"{name}_triton" for name in names}
    return sorted(name for name in names - kernels if not name.startswith("_"))


def find_method(name: str) -> type[RegularizerConfig]:
    """Return the configuration class of a method, imported from the file that bears its name.

    Raises:
        ConfigError: No file of `regularizers/` has this name.
    """
    if name not in method_names():
        raise ConfigError(unknown("regularizer", name, method_names()))
    module = importlib.import_module(f"tdbench.regularizers.{name}")
    declared = (entry for entry in vars(module).values() if isinstance(entry, type))
    return next(
        entry for entry in declared if issubclass(entry, RegularizerConfig) and entry.__module__ == module.__name__
    )


def about(field: FieldInfo) -> dict[str, Any]:
    """Return what `knob` noted of a field beside its constraints: source, aliases, rule, identity."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def known_keys(method: type[RegularizerConfig]) -> dict[str, FieldInfo]:
    """Return every dotted key of a run that uses `method`, with its declaration."""
    keys: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        section = method if name == "regularizer" else field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            keys |= {f"{name}.{key}": leaf for key, leaf in section.model_fields.items()}
        else:
            keys[name] = field
    return keys


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
