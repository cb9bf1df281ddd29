"""Whether the methods' compiled kernels can be used here.

In a method's folder, `cpu.py` has those in C++, `gpu.py` those in Triton.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_in_graphs(function: Function) -> Function:
    """Have torch.compile call a function while it captures a graph, and take the answer as a constant.

    That is what torch.compiler.assume_constant_result does; calling it would import the whole compiler, seconds and
    160 MiB, and most commands compile nothing.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_in_graphs
def runs_cpp() -> bool:
    """Return whether the C++ kernels were built at installation, and TDBENCH_CPP=0 does not switch them off."""
    return os.environ.get("TDBENCH_CPP") != "0" and all(imports(name) for name in modules_named("cpu"))


@cache
def modules_named(stem: str) -> tuple[str, ...]:
    """Return the dotted names of the modules `stem.py` in the methods' folders."""
    return tuple(f"{__package__}.{path.parent.name}.{path.stem}" for path in Path(__file__).parent.glob(f"*/{stem}.py"))


@cache
def imports(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True
