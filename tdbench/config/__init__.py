"""The configuration of a run: the typed tree, and how its parts are put together."""

from tdbench.config.loading import FLAGS, Given, build_config, load_config, parse_yaml, resolve_key
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
    "Given",
    "HardwareConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "build_config",
    "flatten",
    "known_keys",
    "load_config",
    "parse_yaml",
    "resolve_key",
]
