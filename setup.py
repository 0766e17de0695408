"""What is packed: raysparse with its kernels in C, analysis, and the sweep scripts as
`raysparse.sweeps`.

The rest stands in pyproject.toml, which cannot give one package another folder beside those that it
finds. So `python sweeps/grid.py` in a clone and `python -m raysparse.sweeps.grid` after an install
are the same file, and no second list of scripts is kept.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["raysparse*", "analysis*"]), "raysparse.sweeps"],
    package_dir={"raysparse.sweeps": "sweeps"},
    package_data={"raysparse.kernels.native": ["*.c"]},
)
