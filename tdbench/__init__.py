"""tdbench: does this CNN regularizer help here, at which settings, with what certainty, and at what cost?

What the command line does can be done from Python: `train`, `ablate`, `profile` and `audit` take the commands'
arguments, `read_run` and `read_sweep` read what they leave, `insert` puts a regularizer into any network.
"""

import importlib
from typing import Any

__version__ = "0.3.0"

_PUBLIC = {
    "Regularizer": "tdbench.regularizers.base",
    "RegularizerConfig": "tdbench.regularizers.config",
    "RunConfig": "tdbench.config",
    "TargetDrop2d": "tdbench.regularizers.targetdrop.layer",
    "TdbenchError": "tdbench.errors",
    "ablate": "tdbench.sweep.ablate",
    "audit": "tdbench.audit",
    "compare": "tdbench.sweep.compare",
    "insert": "tdbench.models.sites",
    "knob": "tdbench.knobs",
    "load_config": "tdbench.config",
    "profile": "tdbench.profiling.profile",
    "read_run": "tdbench.store.reading",
    "read_sweep": "tdbench.store.reading",
    "report": "tdbench.report",
    "target_drop2d": "tdbench.regularizers.targetdrop.layer",
    "train": "tdbench.training.train",
    "tune": "tdbench.sweep.tune.command",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import tdbench` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tdbench' has no attribute {name!r}")
    return (
        importlib.import_module(_PUBLIC[name])
        if name in ("audit", "report")
        else getattr(importlib.import_module(_PUBLIC[name]), name)
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
