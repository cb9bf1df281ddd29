"""What pyproject.toml alone cannot say: `ablations/` goes into the package, and the CPU kernel is optional.

Where no C++ compiler is at hand, or not one with OpenMP (as Apple's), tdbench is installed without the kernel and works
without it. The kernel keeps to Python's limited API, so that one wheel of a platform serves all Pythons.
"""

import sys
import sysconfig

from setuptools import Extension, find_packages, setup

IS_LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")  # a free-threaded Python has no limited API
GNU = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
GNU += ["-ffp-contract=off"]  # no fused multiply-add: the same bits with every kind of vector
MICROSOFT = ["/std:c++17", "/O2", "/openmp", "/fp:precise", "/utf-8"]

setup(
    packages=[*find_packages(include=["tdbench", "tdbench.*"]), "tdbench.ablations"],
    package_dir={"tdbench.ablations": "ablations"},
    package_data={
        "tdbench": ["py.typed"],
        "tdbench.regularizers.targetdrop": ["*.pyi"],
        "tdbench.report": ["page.*"],
        "tdbench.ablations": ["*.yaml"],
    },
    ext_modules=[
        Extension(
            "tdbench.regularizers.targetdrop._cpu",
            ["tdbench/regularizers/targetdrop/cpu.cpp"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if IS_LIMITED else [],
            py_limited_api=IS_LIMITED,
            extra_compile_args=MICROSOFT if sys.platform == "win32" else GNU,
            extra_link_args=[] if sys.platform == "win32" else ["-fopenmp"],
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if IS_LIMITED else {},
)
