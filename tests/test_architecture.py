"""The floors and the wings of the house: imports point down only, and the bench starts and ends without torch.

`docs/design.md` says what the rooms are. Imports count wherever they stand, in functions too, and so do modules that
are named in text, as for importlib; only those for annotations, which are never run, do not.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tdbench
from tdbench.regularizers.registry import method_names

PACKAGE = Path(tdbench.__file__).parent

# The first pattern that matches a module decides: its room, its floor, its wing.
ROOMS = (
    (r"errors", "errors", 0, "bench"),
    (r"knobs", "knobs", 1, "bench"),
    (r"user_code(\..*)?", "user_code", 1, "bench"),
    (r"store(\..*)?", "store", 1, "bench"),
    (r"regularizers\.(config|registry)", "declarations", 2, "bench"),
    (r"regularizers\.(METHOD)", "declarations", 2, "bench"),
    (r"regularizers(\..*)?", "regularizers", 4, "lab"),
    (r"config(\..*)?", "config", 3, "bench"),
    (r"data(\..*)?", "data", 5, "lab"),
    (r"models(\..*)?", "models", 5, "lab"),
    (r"integrations(\..*)?", "integrations", 6, "lab"),
    (r"training(\..*)?", "training", 6, "lab"),
    (r"audit(\..*)?", "audit", 7, "lab"),
    (r"show(\..*)?", "show", 7, "lab"),
    (r"profiling(\..*)?", "profiling", 7, "lab"),
    (r"report(\..*)?", "report", 7, "bench"),
    (r"sweep\.worker", "worker", 8, "lab"),
    (r"sweep(\..*)?", "sweep", 7, "bench"),
    (r"cli(\..*)?", "cli", 9, "bench"),
)
HEAVY = ("torch", "torchvision", "sklearn", "scipy.stats", "ray", "timm", "triton")
# The doors from the bench to the lab, each a name in text: what runs in another process, or is not known before.
DOORS = {
    ("regularizers.registry", "regularizers.user"),  # the user's own method, where torch may be imported
    ("sweep.lab", "sweep.worker"),  # what the server of the lab imports
    ("sweep.lab", "training.ahead"),
    ("sweep.audits", "audit.command"),
    ("sweep.executors", "sweep.worker"),
    ("sweep.preflight", "training.ahead"),
    ("sweep.ray_executor", "sweep.worker"),
    ("sweep.slots", "training.ahead"),
}


def room_of(module: str) -> tuple[str, int, str]:
    for pattern, room, floor, wing in ROOMS:
        if re.fullmatch(pattern.replace("METHOD", "|".join(method_names())), module):
            return room, floor, wing
    raise AssertionError(f"{module} has no room")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


PATHS = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.stem.startswith("__")]
MODULES = {module_of(path): path for path in PATHS}


class Imports(ast.NodeVisitor):
    """Collects (module, whether it is named in text, whether importing the file imports it)."""

    def __init__(self) -> None:
        self.found: set[tuple[str, bool, bool]] = set()
        self._depth = 0

    def _add(self, name: str, in_text: bool = False) -> None:
        self.found.add((name, in_text, self._depth == 0 and not in_text))

    def visit_If(self, node: ast.If) -> None:
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.orelse if is_for_types else [node.test, *node.body, *node.orelse]:
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "a relative import"
        self._add(node.module or "")
        for alias in node.names:
            assert alias.name != "import_module" or alias.asname is None, "an import in disguise"
            self._add(f"{node.module}.{alias.name}")

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and re.fullmatch(r"tdbench\.[\w.]+(:\w+)?", node.value):
            self._add(node.value.partition(":")[0], in_text=True)

    def visit_Call(self, node: ast.Call) -> None:
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in ("import_module", "__import__"):
            for named in [*node.args, *(keyword.value for keyword in node.keywords)]:
                if isinstance(named, ast.Constant):
                    self._add(str(named.value))
        self.generic_visit(node)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("if TYPE_CHECKING:\n import torch", set()),
        ("if not TYPE_CHECKING:\n import torch", {"torch"}),
        ("if TYPE_CHECKING:\n pass\nelse:\n import torch", {"torch"}),
        ("def f():\n from torch import nn", {"torch", "torch.nn"}),
        ("importlib.import_module(name='torch')", {"torch"}),
        ("run('tdbench.training.ahead:check')", {"tdbench.training.ahead"}),
    ],
)
def test_an_import_is_seen_wherever_it_stands(code, found):
    visitor = Imports()
    visitor.visit(ast.parse(code))
    assert {name for name, _, _ in visitor.found} == found


def imports_of(path: Path) -> set[tuple[str, bool, bool]]:
    visitor = Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_and_the_bench_knows_no_torch(module):
    room, floor, wing = room_of(module)
    for name, in_text, at_once in imports_of(MODULES[module]):
        there = name.removeprefix("tdbench.")
        if there in MODULES and name != there:
            other_room, other_floor, other_wing = room_of(there)
            if (module, there) in DOORS:
                assert in_text
                continue
            assert other_room == room or other_floor < floor, f"{room} on floor {floor} imports {name} on {other_floor}"
            if wing == "bench" and other_wing == "lab":
                assert room == "cli", f"the bench imports {name}"
                assert not at_once, f"{module} imports {name} when it is imported"
        elif wing == "bench" and not in_text:
            heavy = [one for one in HEAVY if name == one or name.startswith(one + ".")]
            assert not heavy, f"the bench imports {name}"


def test_every_door_is_used():
    for module, there in DOORS:
        assert any(name == f"tdbench.{there}" and in_text for name, in_text, _ in imports_of(MODULES[module]))


def test_no_room_names_a_method_but_its_own():
    for module, path in MODULES.items():
        for name, _, _ in imports_of(path):
            inside = re.match(r"tdbench\.regularizers\.(\w+)", name)
            if inside and inside[1] in method_names():
                assert module.startswith(f"regularizers.{inside[1]}"), f"{module} imports {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_is_small_enough_to_be_read(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is long"


LIBRARIES = "torch torchvision sklearn scipy.stats pandas matplotlib numpy"
FIND_METHODS = "from tdbench.regularizers.registry import *; [find_method(name) for name in method_names()]"


def call(*arguments: str) -> str:
    """Return code that runs the command line and expects it to end without a defect."""
    return f"from tdbench.cli import main; code = main({list(arguments)!r}); assert code in (0, 2), code"


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import tdbench", f"{LIBRARIES} pydantic"),
        (call("--help"), LIBRARIES),
        (call("train", "--help"), LIBRARIES),
        (call("list"), LIBRARIES),
        (call("list", "--json"), LIBRARIES),
        (call("train", "--set", "blok_size=3"), LIBRARIES),
        (call("train", "--regularizer", "targetdrp"), LIBRARIES),
        (call("train", "--model", "resnet9"), LIBRARIES),
        (call("train", "--set", "model.pretrained=true"), LIBRARIES),
        (call("train", "--set", "model.weights=none.pt", "--out", "run"), LIBRARIES),
        (call("train", "--data", "digit"), LIBRARIES),
        (call("train", "--log", "wandp"), f"{LIBRARIES} wandb mlflow"),
        (call("audit", "--set", "blok_size=3"), LIBRARIES),
        (call("show", "--set", "blok_size=3"), LIBRARIES),
        (call("profile", "--set", "blok_size=3"), LIBRARIES),
        (call("ablate", "--param", "blok_size"), LIBRARIES),
        (call("ablate", "--param", "block_size", "--set", "blok_size=3"), LIBRARIES),
        (call("trian"), LIBRARIES),
        (FIND_METHODS, LIBRARIES),
        ("import tdbench.sweep.ablate, tdbench.cli.sweep_tables, tdbench.cli.sweep_terminal", LIBRARIES),
        ("import tdbench; tdbench.read_run; tdbench.read_sweep; tdbench.knob; tdbench.RegularizerConfig", LIBRARIES),
    ],
)
def test_starting_costs_no_heavy_import(tmp_path, code, heavy):
    check = f"{code}; import sys; loaded = set('{heavy}'.split()) & set(sys.modules); assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_public_names_are_importable():
    for name in tdbench.__all__:
        assert getattr(tdbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tdbench.nothing
