"""Turns what YAML holds into the objects that ``LLM`` takes."""

from __future__ import annotations

from typing import Any

from .llm_args import decoding_config


def update_llm_args_with_extra_dict(
    llm_args: dict[str, Any], llm_args_dict: dict[str, Any]
) -> dict[str, Any]:
    """Return both together; only some objects are converted here, ``LLM`` does the others."""
    extra = dict(llm_args_dict)
    if "speculative_config" in extra:
        extra["speculative_config"] = decoding_config(extra["speculative_config"])
    return {**llm_args, **extra}
