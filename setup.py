"""The experiments of `ablations/` go into the package, which pyproject.toml alone cannot say."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["tdbench", "tdbench.*"]), "tdbench.ablations"],
    package_dir={"tdbench.ablations": "ablations"},
    package_data={"tdbench.ablations": ["*.yaml"]},
)
