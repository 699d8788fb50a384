"""Finds the files that ship with forge, both in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2 import Template

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

    # libyaml's loader is ten times as fast, but PyYAML may be built without it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(data_path(name).read_text(encoding="utf-8"), Loader=loader)


def data_template(
    name: str, *, autoescape: bool, filters: Mapping[str, Callable[..., object]], **syntax: str
) -> Template:
    """Return a Jinja template from the data files; undefined names are errors.

    Args:
        name: Its path below the data folder.
        autoescape: Whether values are escaped for HTML.
        filters: The filters it may use, by name.
        syntax: Delimiters for output that uses Jinja's own: ``variable_start_string="[["``.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("")),
        undefined=jinja2.StrictUndefined,
        autoescape=autoescape,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        **syntax,  # type: ignore[arg-type]
    )
    environment.filters.update(filters)
    return environment.get_template(name)


def sample_checkpoint_dir() -> Path:
    """Return the folder of the sample checkpoint."""
    return data_path("sample")
