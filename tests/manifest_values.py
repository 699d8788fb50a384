"""Which values of two manifests differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.delivery.manifest import Manifest


def values_that_differ(one: Manifest, other: Manifest) -> tuple[str, ...]:
    """Return which values of two manifests differ, but for those that either says may vary."""
    first, second = _flat(one.document()), _flat(other.document())
    varying = {*one.varying, *other.varying}
    names = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    return tuple(name for name in names if not any(_is_below(name, place) for place in varying))


def _flat(value: Any, place: str = "") -> dict[str, object]:
    """Return the values of a document under their paths; files go by their own."""
    if isinstance(value, dict):
        children = {str(name): child for name, child in value.items()}
    elif isinstance(value, (list, tuple)) and value and _is_files(value):
        children = {str(child["path"]): child for child in value}
    else:
        return {place: value}
    flat: dict[str, object] = {}
    for name, child in children.items():
        flat.update(_flat(child, f"{place}/{name}" if place else name))
    return flat


def _is_files(values: Sequence[Any]) -> bool:
    return all(isinstance(value, dict) and "path" in value for value in values)


def _is_below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")
