"""Prints what pyproject.toml, in the current folder, asks for: its dependencies, and those of the extras named."""
# ruff: noqa: INP001  - a program, part of no package

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [requirement for name in sys.argv[1:] for requirement in project["optional-dependencies"][name]]
sys.stdout.write("\n".join([*project["dependencies"], *extras]) + "\n")
