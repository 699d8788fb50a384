"""Checks whether another engine fits into memory beside those of a server.

While a version is replaced both are loaded, the old one for the requests it still answers. Only
the minimum of the new one is counted: its files, which an engine holds in memory, and for the
twin the KV cache of one request of full length. It may take more, but that is not a reason to
refuse.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.gpu import free_gpu_bytes
from trtllm_forge.machine.survey import free_memory_bytes
from trtllm_forge.text.quantities import show_size
from trtllm_forge.triton.repository.mount import cpp_models, engine_dir
from trtllm_forge.triton.repository.names import ENGINE_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """The minimum memory of a version.

    Attributes:
        host_bytes: Host memory.
        gpu_bytes: Memory of one GPU, for the largest rank.
    """

    host_bytes: int = 0
    gpu_bytes: int = 0


def memory_need(repository_dir: Path) -> MemoryNeed:
    """Return the minimum memory of a repository's engines."""
    gpu_bytes = 0
    for model, config in cpp_models(repository_dir).items():
        folder = engine_dir(config, repository_dir, model)
        sizes = [path.stat().st_size for path in folder.glob("*.engine")] if folder else []
        gpu_bytes += max(sizes, default=0)
    weights_path = repository_dir / ENGINE_DIR / "openvino_model.bin"
    host_bytes = weights_path.stat().st_size if weights_path.is_file() else 0
    return MemoryNeed(
        host_bytes=host_bytes + _longest_request_bytes(repository_dir), gpu_bytes=gpu_bytes
    )


def require_memory(repository_dir: Path, *, what: str, held_bytes: int, hint: str) -> None:
    """Raise if memory is certainly too small for another engine.

    Args:
        repository_dir: The repository to load.
        what: Its description in the message.
        held_bytes: Memory that the server holds now.
        hint: The command that frees it.

    Raises:
        PrerequisiteError: Less is free than it needs; names both numbers.
    """
    need = memory_need(repository_dir)
    free = free_memory_bytes()
    beside = (
        f"the server holds {show_size(held_bytes)} now and keeps it until the new version serves"
    )
    if need.host_bytes > free:
        least = show_size(need.host_bytes)
        text = f"{what} needs at least {least} of memory, {show_size(free)} is free"
        raise PrerequisiteError(text, why=beside, hint=hint)
    gpus = free_gpu_bytes()
    if need.gpu_bytes and gpus and need.gpu_bytes > max(gpus):
        text = (
            f"{what} needs at least {show_size(need.gpu_bytes)} of GPU memory, "
            f"{show_size(max(gpus))} is free"
        )
        why = (
            "the engine in service keeps its KV cache, which took "
            "kv_cache_free_gpu_mem_fraction of what was free when it was loaded"
        )
        raise PrerequisiteError(text, why=why, hint=hint)


def kv_bytes_per_token(limits: Mapping[str, int]) -> int:
    """Return the KV cache of one token of the twin in bytes, at its default precision."""
    per_layer = 2 * limits["num_kv_heads"] * limits["head_dim"] * _FLOAT_BYTES
    return limits["num_layers"] * per_layer


def _longest_request_bytes(repository_dir: Path) -> int:
    """Return the KV cache that the twin needs for one request of full length."""
    path = repository_dir / ENGINE_DIR / "engine.json"
    try:
        limits = json.loads(path.read_text(encoding="utf-8"))
        return kv_bytes_per_token(limits) * int(limits["max_seq_len"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # not the twin's
