"""The typed tree that describes one run, and the digest that names it."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, field_validator
from pydantic.fields import FieldInfo

from tdbench.config.contents import Contents, Parts, data_parts, digest_of, weights_parts
from tdbench.config.data_sets import find_data_set
from tdbench.config.optimization import OptimizerConfig, ScheduleConfig
from tdbench.config.sections import (
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    HardwareConfig,
    ModelConfig,
    TrainingConfig,
)
from tdbench.errors import ConfigError
from tdbench.knobs import Section, about, as_json, knob
from tdbench.regularizers.config import RegularizerConfig
from tdbench.regularizers.registry import find_method
from tdbench.user_code import absolute, code_of, is_user_code, running_code, short_name

# Digests change with this. It rises when a default or an algorithm changes, which a test notices. Only what differs
# from the defaults is hashed, so that a new field leaves the digests of finished runs alone.
RESULTS_VERSION = "0.2"

OWN_CODE = ("data", "model", "regularizer", "optimizer")  # sections whose name may be a file of the user's


class RunConfig(Section):
    """One run: everything that `tdbench train` needs to repeat it."""

    seed: int = knob(0, "of the weights, the data order, the augmentation and the regularizer", ge=0, lt=2**63)
    data: DataConfig = Field(default_factory=DataConfig)  # made anew: its place is relative to the working folder
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    regularizer: SerializeAsAny[RegularizerConfig] = Field(RegularizerConfig(), validate_default=True)
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    hardware: HardwareConfig = HardwareConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

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

    def settings(self) -> dict[str, Any]:
        """Return the dotted keys and values that make this run this run, and no other, but for what they mean."""
        values = flatten(self.dump())
        method = type(self.regularizer)
        kept = {key for key in values if about(field_of(key, method)).get("identity", True)}
        if self.regularizer.match is not None:  # the knob follows from it
            kept.discard(f"regularizer.{self.regularizer.strength_knob}")
        revisions = {
            "data.name (reading)": find_data_set(self.data.name).reading,
            "regularizer.name (revision)": type(self.regularizer).revision,
        }
        told: dict[str, Any] = {name: revision for name, revision in revisions.items() if revision > 1}
        if self.regularizer.sites is None and self.regularizer.groups != RegularizerConfig.groups:
            told["regularizer.sites (default)"] = self.regularizer.groups
        named = {key: short_name(name) for key, name in self.own_code().items()}  # wherever the file lies
        if self.model.weights is not None:
            named["model.weights"] = self.model.weights.name
        if is_user_code(self.data.name):  # which is given its root, and may read there what it likes
            named["data.root"] = str(self.data.root)
        if self.data.name.startswith("hf:") and Path(self.data.name.removeprefix("hf:")).is_absolute():
            named["data.name"] = f"hf:{Path(self.data.name).name}"  # a folder, known by its contents
        return {key: values[key] for key in values if key in kept} | named | told

    def contents(self, running: bool = False) -> Contents:
        """Return what the settings mean: a data set that may change, where it is there, weights, the user's own code.

        Args:
            running: Of code, what this process has imported; otherwise what lies there now.

        Raises:
            ConfigError: A file of the user's cannot be read.
        """
        look = running_code if running else code_of
        code: dict[str, Mapping[str, str]] = {key: look(name).parts for key, name in self.own_code().items()}
        if self.model.weights is not None:
            code["model.weights"] = weights_parts(self.model.weights)
        data = data_parts(self.data.name, self.data.root)
        return code if data is None else code | {"data": data}

    def check_out(self, folder: Path) -> None:
        """Check that results do not go among the images, of which they would become a class.

        Raises:
            ConfigError: They do.
        """
        inside = Path(os.path.realpath(folder))
        for part in ("train", "test", "val"):
            images = Path(os.path.realpath(self.data.root / part))
            if self.data.name == "folder" and inside.is_relative_to(images):
                raise ConfigError(f"--out {folder} lies among the images of {images}; take another --out")

    def own_code(self) -> dict[str, str]:
        """Return the keys whose value is a file of the user's."""
        names = {f"{section}.name": getattr(self, section).name for section in OWN_CODE}
        return {key: name for key, name in names.items() if is_user_code(name)}

    def running_texts(self) -> dict[str, bytes]:
        """Return the user's code as this process has imported it: under the key, by names as seen from the file."""
        named = self.own_code().items()
        return {f"{key}/{part}": text for key, name in named for part, text in running_code(name).texts.items()}

    def identity(self, contents: Contents | None = None) -> dict[str, Any]:
        """Return the settings, and a digest of whatever they mean.

        Args:
            contents: What they mean, where that is not as it lies there now.

        Raises:
            ConfigError: A file of the user's cannot be read.
        """
        contents = self.contents() if contents is None else contents
        told = {
            f"{source} (content)": (parts if isinstance(parts, Parts) else Parts(parts)).digest
            for source, parts in contents.items()
            if parts  # a published data set is named as it always was
        }
        if self.data.name == "folder" and "data" not in contents:  # it is not there
            told["data.root"] = str(self.data.root)
        return self.settings() | told

    def digest(self, contents: Contents | None = None) -> str:
        """Return 12 hexadecimal digits that two runs share exactly if they are the same experiment; see `identity`."""
        defaults = default_values(type(self.regularizer))
        told = {
            key: value
            for key, value in self.identity(contents).items()
            if key not in defaults or value != defaults[key]
        }
        return digest_of([RESULTS_VERSION, told])


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


def field_of(key: str, method: type[RegularizerConfig]) -> FieldInfo:
    """Return the declaration of a dotted key; that of a knob of torch's, which has none here, says nothing."""
    return known_keys(method).get(key) or FieldInfo(annotation=object)


@cache
def default_values(method: type[RegularizerConfig]) -> dict[str, Any]:
    """Return dotted key to default, as `RunConfig.dump` writes it, of a run that uses `method`.

    Left out are a knob that must be given, and the place of the data, which depends on the working folder. The name of
    the method is that of the default one.
    """
    fields = {key: field for key, field in known_keys(method).items() if not field.is_required() and key != "data.root"}
    defaults = {key: as_json(field.get_default(call_default_factory=True)) for key, field in fields.items()}
    return defaults | {"regularizer.name": RegularizerConfig.model_fields["name"].default}


def named_as_here(tree: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return a tree that names the user's code by its place here, where only the folder of the file is another."""
    result = dict(tree)
    for section in OWN_CODE:
        there, here = tree.get(section), getattr(config, section).name
        if not isinstance(there, Mapping):
            continue
        name = there.get("name")
        if isinstance(name, str) and is_user_code(name) and short_name(name) == short_name(here):
            result[section] = {**there, "name": here}
    return result


def foreign_method(tree: Mapping[str, Any], config: RunConfig) -> str | None:
    """Return how the method of a tree differs from a run's in words, where it is a file of the user's; None: it is not.

    To look further into such a tree is to run that file, which nobody has asked for.
    """
    section = tree.get("regularizer")
    name = section.get("name") if isinstance(section, Mapping) else None
    if not isinstance(name, str) or not is_user_code(name) or absolute(name) == config.regularizer.name:
        return None
    return f"regularizer.name is {absolute(name)} there and {config.regularizer.name} here"


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of a run as one level of dotted keys; a knob may itself be a table, and is one value."""
    flat: dict[str, Any] = {}
    for section, value in tree.items():
        flat |= (
            {f"{section}.{key}": leaf for key, leaf in value.items()}
            if isinstance(value, Mapping)
            else {section: value}
        )
    return flat
