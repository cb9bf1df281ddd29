"""What pyproject.toml alone cannot say: `ablations/` goes into the package, and the CPU kernel is optional.

Where no C++ compiler is at hand, or not one with OpenMP, tdbench is installed without the kernel and works without it.
"""

from setuptools import Extension, find_packages, setup

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
            # No fused multiply-add: the same bits with every kind of vector.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-fopenmp",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-fno-trapping-math",
            ],
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ],
)
