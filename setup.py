"""Packages of a wheel: `jsnn`, and the scripts of `experiments/` as `jsnn._experiments`."""

from setuptools import find_packages, setup

scripts = find_packages(include=["experiments*"])
setup(
    packages=[
        *find_packages(include=["jsnn*"]),
        *(f"jsnn._{name}" for name in scripts),
    ],
    package_dir={"jsnn._experiments": "experiments"},
)
