"""The keys of ``forge.yaml`` as a flat list, in the order of the schema."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any, get_args

from trtllm_forge.config.key import ConfigKey, help_of, is_key, key_of
from trtllm_forge.config.schema import ForgeConfig, Precision

PRECISION_FLAGS = get_args(Precision)


@lru_cache(maxsize=1)
def config_keys() -> tuple[ConfigKey, ...]:
    """Return every key."""
    found = [key_of(declared) for declared in fields(ForgeConfig) if is_key(declared)]
    for section, kind in section_types().items():
        found += [key_of(declared, section) for declared in fields(kind)]
    return tuple(found)


def section_types() -> dict[str, type[Any]]:
    """Return the class of each section."""
    return {s.name: type(s.default) for s in fields(ForgeConfig) if not is_key(s)}


@lru_cache(maxsize=1)
def section_help() -> dict[str, str]:
    """Return the help of each section."""
    return {
        declared.name: help_of(declared) for declared in fields(ForgeConfig) if not is_key(declared)
    }
