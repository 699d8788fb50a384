"""Imports the Python modules of ``templates/`` the way a Triton model finds them: by bare name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from trtllm_forge.files.resources import templates_dir

_STAND_INS_DIR = Path(__file__).parent / "stand_ins"
_FOLDERS = ("shared", "preprocessing/1", "tensorrt_llm/1")


def template_module(name: str) -> Any:
    """Return a module of a template by its file's name, without the ``.py``."""
    folders = [str(templates_dir() / folder) for folder in _FOLDERS] + [str(_STAND_INS_DIR)]
    before = list(sys.path)
    sys.path[:0] = folders
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = before
