"""The floors of the house: imports point down only, and the command line starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tdbench
from tdbench.regularizers.registry import method_names

PACKAGE = Path(tdbench.__file__).parent

# The first matching prefix wins; a room imports only rooms of a lower floor, and itself.
FLOORS = {
    "tdbench.errors": 0,
    "tdbench.store.folders": 1,
    "tdbench.config": 1,
    "tdbench.regularizers": 2,
    "tdbench.data": 2,
    "tdbench.sweep.tables": 2,
    "tdbench.sweep.plots": 2,
    "tdbench.models": 3,
    "tdbench.training": 4,
    "tdbench.profiling": 4,
    "tdbench.sweep": 5,
    "tdbench.audit": 5,
    "tdbench.results": 5,
    "tdbench.cli": 6,
}


def room_of(module: str) -> tuple[str, int]:
    for prefix, floor in FLOORS.items():
        if module == prefix or module.startswith(prefix + "."):
            return prefix, floor
    raise AssertionError(f"{module} has no floor")


def module_of(path: Path) -> str:
    return ".".join(["tdbench", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name for name in names if name.startswith("tdbench.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_of)
def test_imports_point_down(path):
    module = module_of(path)
    if module in ("tdbench", "tdbench.__main__", "tdbench.results"):
        return
    here, floor = room_of(module)
    for name in imported(path):
        there, other = room_of(name)
        assert there == here or other < floor, f"{module} on floor {floor} imports {name} on floor {other}"


def test_no_floor_names_a_method():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "regularizers" and path.name != "__init__.py":
            for name in imported(path):
                assert name.removeprefix("tdbench.regularizers.") not in method_names(), f"{path} imports {name}"


METHODS = "from tdbench.regularizers.registry import find_method, method_names; [find_method(name) for name in method_names()]"
LIBRARIES = "torch torchvision pandas scipy sklearn matplotlib numpy"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import tdbench", LIBRARIES),
        ("from tdbench.cli import main; main(['--help'])", LIBRARIES),
        (METHODS, "torch._dynamo torch._inductor torchvision pandas scipy sklearn matplotlib"),
        ("import tdbench.sweep.runner", "torch._dynamo torch._inductor torchvision sklearn matplotlib"),
    ],
)
def test_starting_costs_no_heavy_import(code, heavy):
    check = f"{code}; import sys; loaded = set('{heavy}'.split()) & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)


def test_public_names_are_importable():
    for name in tdbench.__all__:
        assert getattr(tdbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tdbench.nothing
