"""The files that a user's file imports and that are the user's own too, found without running any of them."""

import ast
import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

IMPORT_FUNCTIONS = ("__import__", "import_module")  # are followed where their argument is text


def own_files(path: Path) -> list[Path]:
    """Return a Python file and all that it imports, directly or not, but what is installed; in the order of discovery.

    Found are the modules beside it, as it finds them when it runs, and those elsewhere on the path that pip has not put
    there. A name that is put together at run time is not seen.
    """
    found, waiting = [path], [path] if os.path.isfile(path) else []  # a pipe might never end
    while waiting:
        file = waiting.pop(0)
        for imported in _imported_files(file, path.parent):
            if imported not in found:
                found.append(imported)
                if imported.suffix in SOURCE_SUFFIXES:
                    waiting.append(imported)
    return found


def _imported_files(file: Path, folder: Path) -> Iterator[Path]:
    """Yield the user's files that one file imports; `folder` is first on the path when it does."""
    names: list[tuple[int, str]] = []
    with suppress(
        OSError, SyntaxError, ValueError, RecursionError, MemoryError
    ):  # its import says what is wrong with it
        names = [*_imported_names(ast.parse(file.read_bytes()))]
    for level, name in names:
        if not level:
            yield from _files_of(name, _place_of(name.partition(".")[0], folder))
        elif level <= len(file.parents):
            yield from _files_of(name, file.parents[level - 1])


def _imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the dots before each imported name, and the name; `from a import b` may mean a module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, ".".join(filter(None, (node.module, alias.name)))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            if function in IMPORT_FUNCTIONS and isinstance(node.args[0].value, str):
                yield 0, node.args[0].value


def _place_of(top: str, folder: Path) -> Path | None:
    """Return the folder in which a module or package of that name lies; None: it is no file of the user's."""
    if next(_files_of(top, folder), None) is not None or (folder / top).is_dir():
        return folder
    with suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(top)
        if spec is not None:
            places = list(spec.submodule_search_locations or ())
            origin = places[0] if places else spec.origin
            if origin and os.path.exists(origin) and not is_installed(origin):
                return Path(origin).parent
    return None


def _files_of(name: str, folder: Path | None) -> Iterator[Path]:
    """Yield the file of each package on the way to a dotted name, and its own."""
    if folder is None:
        return
    for part in name.split("."):
        if (package := folder / part / "__init__.py").is_file():
            yield package
        for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES):
            if (module := folder / f"{part}{suffix}").is_file():
                yield module
                return
        folder = folder / part


def is_installed(path: str) -> bool:
    """Return whether a path lies where Python or pip has put it, or in this package."""
    real = os.path.realpath(path) + os.sep
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    places.append(str(Path(__file__).parents[1]))
    return any(real.startswith(os.path.realpath(place) + os.sep) for place in places) or any(
        part in ("site-packages", "dist-packages") for part in Path(real).parts
    )
