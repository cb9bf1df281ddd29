"""The configuration of a run: the typed tree (`tree`) and how it is put together (`loading`)."""

from tdbench.config.loading import FLAGS, load_config, parse_yaml, resolve_key
from tdbench.config.tree import (
    AugmentConfig,
    DataConfig,
    HardwareConfig,
    ModelConfig,
    OptimizerConfig,
    RegularizerConfig,
    RunConfig,
    ScheduleConfig,
    Section,
    TrainingConfig,
    about,
    find_method,
    flatten,
    knob,
    known_keys,
    method_names,
)

__all__ = [
    "FLAGS",
    "AugmentConfig",
    "DataConfig",
    "HardwareConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RegularizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "TrainingConfig",
    "about",
    "find_method",
    "flatten",
    "knob",
    "known_keys",
    "load_config",
    "method_names",
    "parse_yaml",
    "resolve_key",
]
