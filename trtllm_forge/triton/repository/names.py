"""The names and folders of a repository that forge renders, each said once."""

from __future__ import annotations

TOKENIZER_DIR = "preprocessing/1/tokenizer"

FRONT_MODEL = "ensemble"

ENGINE_DIR = "tensorrt_llm/1/engine"
"""Where a repository holds its engine, relative to the repository."""
