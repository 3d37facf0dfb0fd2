"""A pytest plugin for `make sanitize`: puts the kernels built with sanitizers into the place of the installed ones.

It is loaded before the package is (`-p sanitized`), with the folder of the other build in `SECATEUR_SANITIZED`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# First, as in `secateur._base.door`: the kernels share torch's OpenMP library.
import torch as torch

NAME = "secateur._native"


def load(folder: Path) -> None:
    (found,) = (folder / "secateur").glob("_native*.so")
    spec = importlib.util.spec_from_file_location(NAME, found)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module


load(Path(os.environ["SECATEUR_SANITIZED"]))


def pytest_report_header(config: pytest.Config) -> str:
    return f"kernels: {sys.modules[NAME].__file__}"
