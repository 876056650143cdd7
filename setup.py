"""The list of packages, which pyproject.toml cannot say: they come from three folders.

Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

app = find_packages("monailabel_app", include=["wordmask_app*"])
setup(packages=[*find_packages("lib"), "wordmask.configs", *app])
