"""Whether the methods' compiled kernels can be used here.

In a method's folder, those in C++ stand in `cpu.py`, those in Triton in `gpu.py`.
"""

import os
from functools import cache
from importlib import import_module
from pathlib import Path


def runs_cpp() -> bool:
    """Return whether pip built the methods' C++ when it installed tdbench, and TDBENCH_CPP=0 does not switch it off."""
    return os.environ.get("TDBENCH_CPP") != "0" and all(imports(name) for name in modules_named("cpu"))


@cache
def modules_named(stem: str) -> tuple[str, ...]:
    """Return the modules `stem.py` of the methods' folders."""
    return tuple(f"{__package__}.{path.parent.name}.{path.stem}" for path in Path(__file__).parent.glob(f"*/{stem}.py"))


@cache
def imports(module: str) -> bool:
    """Return whether a module can be imported here."""
    try:
        import_module(module)
    except ImportError:
        return False
    return True
