"""The constructors of torch's optimizers and schedules, read from torch's source: to import torch takes seconds.

So that a misspelt knob is refused at once, by what the torch that is installed takes, and not by a list of our own.
"""

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REQUIRED = object()  # the default of a parameter that must be given


@cache
def optimizers() -> Mapping[str, Mapping[str, Any]]:
    """Return the classes of `torch.optim`, lower case, each as `signatures` has it."""
    tree = ast.parse(_source("__init__"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    modules = {alias.name: str(node.module).rpartition(".")[2] for node in imports for alias in node.names}
    found = {}
    for name, module in modules.items():
        if name[0].isupper() and name != "Optimizer":
            found[name.lower()] = signatures(module)[name]
    return found


@cache
def schedules() -> Mapping[str, Mapping[str, Any]]:
    """Return the classes of `torch.optim.lr_scheduler`, each as `signatures` has it."""
    return {name: found for name, found in signatures("lr_scheduler").items() if name[0] != "_"}


@cache
def signatures(module: str) -> Mapping[str, Mapping[str, Any]]:
    """Return, of each class in a module of `torch.optim` that has a constructor, its parameters with their defaults.

    A default that is not written as a plain value is None, as one is that torch makes up itself.
    """
    classes = [node for node in ast.parse(_source(module)).body if isinstance(node, ast.ClassDef)]
    return {
        node.name: _parameters(one.args)
        for node in classes
        for one in node.body
        if isinstance(one, ast.FunctionDef) and one.name == "__init__"
    }


def _source(module: str) -> str:
    spec = find_spec("torch")  # which finds it, and imports nothing
    assert spec is not None, "tdbench needs torch"
    assert spec.origin is not None, "torch is installed from its files"
    return (Path(spec.origin).parent / "optim" / f"{module}.py").read_text(encoding="utf-8")


def _parameters(arguments: ast.arguments) -> dict[str, Any]:
    """Return the parameters of a constructor, but for `self`, with their defaults."""
    named = [*arguments.posonlyargs, *arguments.args]
    given = [None] * (len(named) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(named, given, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return {one.arg: _value(default) for one, default in pairs[1:]}


def _value(default: ast.expr | None) -> Any:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(default)
    except ValueError:
        return None
