"""A GPU that is not there, for what the host does with one: launches, copies and waits, and what it refuses.

`nullgpu.cpp` stands in for CUDA's runtime and driver, cuBLAS and cuDNN. torch's own CUDA code, Triton, ptxas and
inductor run as they are; kernels count themselves and compute nothing, so that no figure that comes out means anything.
It is built by the system's compiler when it is first needed, and serves processes that are started for it.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

SOURCE = Path(__file__).with_name("nullgpu.cpp")
_LIBRARY = "TDBENCH_NULLGPU"  # the variable that names it, in a process that has it


class Counts(NamedTuple):
    """What has been asked of the GPU; fields in the order of `Counter` in nullgpu.cpp.

    Attributes:
        launches: Kernels, of torch, Triton, cuBLAS and cuDNN, and memory that was set or copied within the device.
        copies_in, copies_out: From the host and to it.
        syncs: Times that the host waited.
        graphs: Graphs that were launched.
        captured: Launches that went into a graph instead.
        events: Those that live.
    """

    launches: int
    copies_in: int
    copies_out: int
    syncs: int
    graphs: int
    captured: int
    events: int

    def __add__(self, more: "Counts") -> "Counts":  # type: ignore[override]
        return Counts(*map(sum, zip(self, more, strict=True)))

    def __sub__(self, before: "Counts") -> "Counts":
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


NOTHING = Counts(*[0] * len(Counts._fields))


def is_here() -> bool:
    """Return whether this process has the null GPU."""
    return _LIBRARY in os.environ


def counts() -> Counts:
    """Return the counts of this process so far."""
    found = (ctypes.c_long * len(Counts._fields))()
    ctypes.CDLL(os.environ[_LIBRARY]).nullgpu_counts(found)
    return Counts(*found)


def reason_against() -> str | None:
    """Return why there can be no null GPU here; None where there can."""
    if not sys.platform.startswith("linux"):
        return "the null GPU is for Linux"
    if (torch.version.cuda or "").partition(".")[0] != "13":
        return "the null GPU stands in for CUDA 13, for which this torch is not built"
    if shutil.which("g++") is None:
        return "there is no g++ to build the null GPU"
    return None if _headers().exists() else f"CUDA's headers are not at {_headers()}"


def environment() -> dict[str, str]:
    """Return the variables of a process that is to have the null GPU; builds it where that was not done yet."""
    folder = _built()
    library = str(folder / "libcuda.so.1")
    kept = {
        name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")
    }
    places = {name: str(folder) for name in ("LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH")}
    caches = {"TRITON_CACHE_DIR": str(folder / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    return {**kept, **places, **caches, "LD_PRELOAD": library, _LIBRARY: library}


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python with the null GPU, and return what became of it."""
    given = {"capture_output": True, "text": True, "timeout": 300, "env": environment(), **options}
    return subprocess.run([sys.executable, *arguments], check=False, **given)  # type: ignore[call-overload,no-any-return]


def _headers() -> Path:
    return Path(torch.__file__).parents[1] / "nvidia" / "cu13" / "include"


def _built() -> Path:
    """Return the folder of the library, which serves later sessions too, as long as nothing has changed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    state = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    folder = cache / "tdbench-nullgpu" / state
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{os.getpid()}.so"
        includes = [f"-I{SOURCE.parent}", f"-I{_headers()}"]
        options = ["-O1", "-std=c++17", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        subprocess.run(["g++", *options, *includes, SOURCE, "-o", unfinished], check=True)
        (folder / "libcuda.so").unlink(missing_ok=True)
        (folder / "libcuda.so").symlink_to(library.name)
        unfinished.replace(library)
    return folder
