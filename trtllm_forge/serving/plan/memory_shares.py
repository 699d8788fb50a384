"""Checks whether the engines of several repositories fit into the memory they share.

An engine takes its weights and, for its KV cache, a share of the free memory: the fraction
``kv_cache_free_gpu_mem_fraction``, 0.9 by default. Triton loads models at the same time, so each
may find the same memory free, and the shares must not add up to more than that. The twin takes
no more than its largest batch can use, at ``max_seq_len`` tokens each.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.gpu import free_gpu_bytes
from trtllm_forge.machine.survey import free_memory_bytes
from trtllm_forge.serving.plan.memory import kv_bytes_per_token
from trtllm_forge.text.quantities import show_size
from trtllm_forge.triton.repository.contract import DEFAULT_KV_FRACTION
from trtllm_forge.triton.repository.mount import CPP_BACKEND, engine_dir
from trtllm_forge.triton.repository.names import CORE, ENGINE_DIR
from trtllm_forge.triton.repository.repository import parse_model_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BLOCK_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class MemoryShare:
    """The memory of one engine.

    Attributes:
        place: ``the machine``, or its GPUs.
        weight_bytes: Size of its files.
        fraction: Share of the free memory for its KV cache.
        most_kv_bytes: The largest KV cache it can use, or None without a limit.
    """

    place: str
    weight_bytes: int
    fraction: float
    most_kv_bytes: int | None = None

    def kv_bytes(self, free_bytes: int) -> int:
        """Return the KV cache it takes of the given free memory."""
        wanted = int(self.fraction * max(0, free_bytes - self.weight_bytes))
        return wanted if self.most_kv_bytes is None else min(wanted, self.most_kv_bytes)


def require_shares(folders: Sequence[Path]) -> None:
    """Raise unless the engines of several repositories fit together.

    Raises:
        PrerequisiteError: They take more than is free; lists the memory of each.
    """
    placed: dict[str, list[tuple[Path, MemoryShare]]] = defaultdict(list)
    for folder in folders:
        share = memory_share(folder)
        if share is not None:
            placed[share.place].append((folder, share))
    gpus = free_gpu_bytes()
    for place, shares in placed.items():
        if len(shares) < 2:
            continue
        free = free_memory_bytes() if place == "the machine" else _free_on(place, gpus)
        if free == 0:  # no GPU here: Triton reports that the engines do not load
            continue
        taken = sum(share.weight_bytes + share.kv_bytes(free) for _, share in shares)
        if taken <= free:
            continue
        what = (
            f"{len(shares)} engines would take {show_size(taken)} of the memory of {place}, "
            f"{show_size(free)} is free"
        )
        why = "; ".join(
            f"{folder.name} takes {show_size(share.weight_bytes)} and a KV cache of "
            f"{show_size(share.kv_bytes(free))} ({share.fraction:g} of what is free)"
            for folder, share in shares
        )
        fraction = max(0.0, (free - sum(share.weight_bytes for _, share in shares)) / free)
        each = int(100 * fraction / len(shares)) / 100
        hint = (
            f"repository.kv_cache_free_gpu_mem_fraction: {each:g} in forge.yaml, and forge build"
            if each
            else ""
        )
        raise PrerequisiteError(what, why=why, hint=hint)


def _free_on(place: str, gpus: Sequence[int]) -> int:
    """Return the free memory of each GPU of a place, 0 if unknown."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # it renumbers the GPUs and may name them differently
        return max(gpus, default=0)
    numbers = [int(word) for word in re.findall(r"\d+", place)]
    return min((gpus[number] for number in numbers if number < len(gpus)), default=0)


def memory_share(folder: Path) -> MemoryShare | None:
    """Return the memory of a repository's engine, or None if unknown."""
    path = folder / CORE / "config.pbtxt"
    if not path.is_file():
        return None
    config = parse_model_config(path)

    def parameter(name: str) -> str:
        # Reading a key of a protobuf map would create it.
        text = config.parameters[name].string_value if name in config.parameters else ""
        return "" if text.startswith("${") else text

    try:
        fraction = float(parameter("kv_cache_free_gpu_mem_fraction") or DEFAULT_KV_FRACTION)
    except ValueError:  # forge check reports it
        return None
    if config.backend == CPP_BACKEND:
        engine = engine_dir(config, folder, CORE)
        sizes = [file.stat().st_size for file in engine.glob("*.engine")] if engine else []
        devices = parameter("gpu_device_ids") or "0"
        return MemoryShare(
            place=f"GPU {devices}", weight_bytes=max(sizes, default=0), fraction=fraction
        )
    weights_path = folder / ENGINE_DIR / "openvino_model.bin"
    if not weights_path.is_file():
        return None
    limits = json.loads((folder / ENGINE_DIR / "engine.json").read_text(encoding="utf-8"))
    tokens = max(1, config.max_batch_size) * (limits["max_seq_len"] + _BLOCK_TOKENS)
    most = int(parameter("max_tokens_in_paged_kv_cache") or tokens)
    return MemoryShare(
        place="the machine",
        weight_bytes=weights_path.stat().st_size,
        fraction=fraction,
        most_kv_bytes=min(most, tokens) * kv_bytes_per_token(limits),
    )
