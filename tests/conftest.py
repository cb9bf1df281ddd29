"""What must be settled before anything is imported."""

import os
import shutil
import tempfile


def pytest_configure(config):
    """Keep out of the user's cache; let Triton's interpreter run the kernels, unless GPU tests are asked for.

    Triton reads the variable where a kernel is declared, its own library's included, so that it cannot wait.
    """
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tdbench-tests-")
    marks = config.getoption("markexpr")
    if "gpu" not in marks or "not gpu" in marks:
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_unconfigure():
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
