"""tdbench: does this CNN regularizer help here, at which settings, with what certainty, and at what cost?"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Regularizer": "tdbench.regularizers.base",
    "RunConfig": "tdbench.config",
    "TargetDrop2d": "tdbench.regularizers.targetdrop",
    "TdbenchError": "tdbench.errors",
    "insert": "tdbench.models.sites",
    "load_config": "tdbench.config",
    "target_drop2d": "tdbench.regularizers.targetdrop",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import tdbench` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tdbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
