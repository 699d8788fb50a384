"""Finds the TensorRT-LLM release that a repository records.

Without a record, ``check`` and ``migrate`` infer it from the tensors of its models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, kw_only=True)
class RecordedRelease:
    """A release, ``0.16`` or ``1.2.1``, and the record of a repository it comes from."""

    version: str
    source: Literal["manifest", "lock", "engine"]


def recorded_release(
    *,
    recipe: Mapping[str, Any],
    rendered: Mapping[str, Any] | None = None,
    engines: Iterable[str] = (),
) -> RecordedRelease | None:
    """Return the release of a repository's manifest, else of its lock, else of its engines.

    Args:
        recipe: The ``recipe`` of its manifest, empty without one.
        rendered: The parameters of the stage ``render`` in its lock. They name the release whose
            tensors the models have, which may be shorter: ``1.2``.
        engines: The ``engine_release`` of each of its engines.
    """
    version = recipe.get("trtllm_version")
    if isinstance(version, str):
        return RecordedRelease(version=version, source="manifest")
    version = (rendered or {}).get("trtllm_version")
    if isinstance(version, str):
        return RecordedRelease(version=version, source="lock")
    version = next(filter(None, engines), "").partition("+")[0]
    return RecordedRelease(version=version, source="engine") if version else None


def engine_release(config: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Return the release that built an engine, or an empty text.

    Args:
        config: Its ``config.json``.
        described: Forge's ``engine.json`` beside it, empty without one.
    """
    return str(config.get("version") or described.get("trtllm_version") or "")
