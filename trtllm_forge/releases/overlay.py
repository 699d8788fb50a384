"""The user's ``releases_file``: releases and images newer than this forge.

Nothing else checks such a file, so unknown keys and values of the wrong kind are rejected with
their place in the file. ``docs/releases.md`` explains the keys; ``releases.catalogue`` shows the
form.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from packaging.version import VERSION_PATTERN

from trtllm_forge.errors import ConfigError, reason_of
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEMA = 1

_RELEASE = re.compile(rf"(?=\d+\.\d+\.\d+){VERSION_PATTERN}", re.VERBOSE)
_GPU = re.compile(r"sm_\d+")


def _is_text(value: object) -> bool:
    # Without quotes, 26.10 is the number 26.1.
    return isinstance(value, str) and bool(value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _are_gpus(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(name, str) and _GPU.fullmatch(name) for name in value
    )


_Kind = tuple["Callable[[object], bool]", str]
_TEXT: _Kind = (_is_text, "text, in quotes if it looks like a number")
_FLAG: _Kind = (_is_flag, "true or false")
_RELEASE_KEYS: dict[str, _Kind] = {
    "like": _TEXT,
    "engine": _FLAG,
    "llmapi": _FLAG,
    "gpus": (_are_gpus, "a list such as [sm_90, sm_100]"),
}
_IMAGE_KEYS: dict[str, _Kind] = {
    "triton": _TEXT,
    "trtllm": _TEXT,
    "size_gb": (_is_size, "a number above 0"),
    "examples": _FLAG,
    **dict.fromkeys(("server", "python", "tensorrt", "cuda", "driver", "reference"), _TEXT),
}
_NEEDED = ("triton", "trtllm", "size_gb", "examples")


def read_overlay(path: Path) -> dict[str, Any]:
    """Return the content of the file after checking its form.

    Raises:
        ConfigError: It cannot be read, or a key or value is invalid.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = f"releases_file {path} cannot be read"
        raise ConfigError(what, why=reason_of(error, path)) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        what = f"releases_file {path} has the wrong form"
        why = f"it must begin with `schema: {SCHEMA}` and hold images and releases"
        raise ConfigError(what, why=why)
    mistakes = _mistakes(document)
    if mistakes:
        what = f"releases_file {path}: {mistakes[0]}"
        raise ConfigError(what, why="\n".join(mistakes[1:]))
    return document


def _mistakes(document: dict[str, Any]) -> list[str]:
    mistakes = _unknown("", document, ("schema", "images", "releases"))
    images, releases = document.get("images") or [], document.get("releases") or {}
    if isinstance(images, list):
        for number, row in enumerate(images, start=1):
            mistakes += _row(f"image {number}", row, _IMAGE_KEYS, needed=_NEEDED)
    else:
        mistakes.append("images is not a list")
    if isinstance(releases, dict):
        for name, row in releases.items():
            if not (isinstance(name, str) and _RELEASE.fullmatch(name)):
                mistakes.append(f'release {name} is not a release name in quotes, such as "1.2.2"')
            mistakes += _row(f"release {name}", row, _RELEASE_KEYS, needed=("like",))
    else:
        mistakes.append("releases is not a mapping of names")
    return mistakes


def _row(place: str, row: object, keys: dict[str, _Kind], *, needed: tuple[str, ...]) -> list[str]:
    if not isinstance(row, dict):
        return [f"{place} is not a mapping"]
    mistakes = _unknown(f"{place}: ", row, tuple(keys))
    mistakes += [f"{place} has no {key}" for key in needed if key not in row]
    for key, (is_right, wanted) in keys.items():
        if key in row and not is_right(row[key]):
            mistakes.append(f"{place}: {key} is {row[key]!r}, wanted: {wanted}")
    return mistakes


def _unknown(place: str, row: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    mistakes = []
    for key in row:
        if key not in keys:
            close = nearest(str(key), keys)
            meant = f", the nearest is {close}" if close else f", the keys are {', '.join(keys)}"
            mistakes.append(f"{place}unknown key {key}{meant}")
    return mistakes
