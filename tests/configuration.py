"""Configurations from plain mappings, as ``forge.yaml`` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtllm_forge.config.keys import section_types
from trtllm_forge.config.schema import ForgeConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


def config_of(document: Mapping[str, Any]) -> ForgeConfig:
    """Return the configuration that a document describes."""
    types = section_types()
    return ForgeConfig(
        **{
            name: types[name](**value) if name in types else value
            for name, value in document.items()
        }
    )
