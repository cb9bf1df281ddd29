"""The configuration of a run: how fields are declared, the typed tree, and how its parts are put together."""

from tdbench.config.knobs import Section, about, knob
from tdbench.config.loading import FLAGS, build_config, load_config, parse_yaml, resolve_key
from tdbench.config.method import RegularizerConfig, find_method, method_names
from tdbench.config.tree import (
    AugmentConfig,
    DataConfig,
    HardwareConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
    flatten,
    known_keys,
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
    "build_config",
    "find_method",
    "flatten",
    "knob",
    "known_keys",
    "load_config",
    "method_names",
    "parse_yaml",
    "resolve_key",
]
