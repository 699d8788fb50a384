"""Finds the files that ship with forge, from a checkout and from an installed wheel alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtllm_forge.errors import PrerequisiteError

_PACKAGE_DIR = Path(__file__).resolve().parent.parent


def templates_dir() -> Path:
    """Return the folder of Triton model templates.

    A wheel carries it as ``_templates`` inside the package; a checkout has it beside the package.
    """
    for candidate in (_PACKAGE_DIR / "_templates", _PACKAGE_DIR.parent / "templates"):
        if (candidate / "ensemble").is_dir():
            return candidate
    what = f"the templates are missing from this installation of forge ({_PACKAGE_DIR})"
    raise PrerequisiteError(what, hint="pip install --force-reinstall trtllm-forge")


def data_path(name: str) -> Path:
    """Return the path of a data file or folder of the package."""
    return _PACKAGE_DIR / "data" / name


def read_yaml(name: str) -> Any:
    """Return the content of a YAML data file of the package."""
    import yaml

    # libyaml's loader is ten times as fast; PyYAML built without it has the other alone.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(data_path(name).read_text(encoding="utf-8"), Loader=loader)


def sample_checkpoint_dir() -> Path:
    """Return the folder of the sample checkpoint."""
    return data_path("sample")
