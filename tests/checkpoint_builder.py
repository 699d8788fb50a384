"""Builds checkpoints small enough to hash and serve in no time, byte by byte."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def safetensors_bytes(size_bytes: int = 4096, *, name: str = "weight") -> bytes:
    """Return a safetensors file of one tensor with ``size_bytes`` of data that do not repeat."""
    header = json.dumps(
        {name: {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}
    ).encode()
    data = b"".join(struct.pack("<I", number * 2654435761 % 2**32) for number in range(size_bytes))
    return struct.pack("<Q", len(header)) + header + data[:size_bytes]


def config_bytes(architecture: str = "GPTBigCodeForCausalLM") -> bytes:
    """Return the ``config.json`` of a model of two layers."""
    document = {
        "architectures": [architecture],
        "model_type": "gpt_bigcode",
        "n_positions": 64,
        "n_embd": 8,
        "n_head": 2,
        "n_layer": 2,
        "vocab_size": 16,
        "multi_query": True,
        "eos_token_id": 0,
    }
    return json.dumps(document).encode()


def checkpoint_files(**changes: bytes | None) -> dict[str, bytes]:
    """Return a whole checkpoint by file name; in ``changes`` ``__`` is a dot, None leaves out."""
    files: dict[str, bytes | None] = {
        "config.json": config_bytes(),
        "generation_config.json": b'{"eos_token_id": 0}',
        "model.safetensors": safetensors_bytes(),
        "tokenizer.json": b'{"added_tokens": []}',
        "tokenizer_config.json": b"{}",
    }
    files.update({name.replace("__", "."): content for name, content in changes.items()})
    return {name: content for name, content in files.items() if content is not None}


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write ``files`` below ``folder``, which is made, and return it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
