"""What must be settled before anything is imported."""

import os


def pytest_configure(config):
    """Let Triton's interpreter run the kernels on the CPU, unless the tests that need a GPU are asked for.

    Triton reads the variable where a kernel is declared, its own library's included, so that it cannot wait.
    """
    marks = config.getoption("markexpr")
    if "gpu" not in marks or "not gpu" in marks:
        os.environ["TRITON_INTERPRET"] = "1"
