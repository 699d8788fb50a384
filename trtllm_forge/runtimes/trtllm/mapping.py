"""Check the tensor and pipeline parallel sizes against the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.config.command import build_command
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.contents import CheckpointConfig
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.releases.catalogue import Release
    from trtllm_forge.releases.flags import FlagTable

# Before this release, a pipeline rank took layers // pp_size layers, losing the remainder.
# Source: NVIDIA/TensorRT-LLM pull request 3429 (pp_layers of tensorrt_llm/mapping.py), April 2025.
_UNEVEN_SINCE = "0.20"


def require_mapping(
    config: ForgeConfig,
    checkpoint: CheckpointConfig,
    release: Release,
    table: FlagTable | None,
) -> None:
    """Check that the model can be split.

    Raises:
        ConfigError: Heads, layers or the converter do not fit ``tp_size`` or ``pp_size``.
    """
    tp_size, pp_size = config.build.tp_size, config.build.pp_size
    heads, kv_heads = checkpoint.num_heads, checkpoint.num_kv_heads
    layers = checkpoint.num_layers
    if table and table.max_pp_size and pp_size > table.max_pp_size:
        what = f"{table.title} supports pp_size up to {table.max_pp_size}, {pp_size} was requested"
        fitting = _largest_tp(heads, kv_heads, tp_size * pp_size)
        raise ConfigError(what, hint=build_command(config, tp_size=fitting, pp_size=1))
    hint = build_command(config, tp_size=_largest_tp(heads, kv_heads, tp_size))
    if heads and heads % tp_size:
        what = f"{heads} attention heads cannot be split over tp_size {tp_size}"
        raise ConfigError(what, hint=hint)
    if not _suits(kv_heads, tp_size):
        what = (
            f"{kv_heads} KV heads can be neither split over tp_size {tp_size} nor repeated for it"
        )
        raise ConfigError(what, hint=hint)
    is_even = release.is_before(_UNEVEN_SINCE)
    if layers and (pp_size > layers or (is_even and layers % pp_size)):
        what = f"{layers} layers cannot be split over pp_size {pp_size}"
        why = ""
        if pp_size <= layers:
            why = f"TensorRT-LLM {release.version} needs equal stages; any split works since "
            why += _UNEVEN_SINCE
        sizes = range(min(pp_size, layers), 0, -1)
        fitting = next(size for size in sizes if not is_even or layers % size == 0)
        raise ConfigError(what, why=why, hint=build_command(config, pp_size=fitting))


def _largest_tp(heads: int, kv_heads: int, limit: int) -> int:
    sizes = range(min(heads or limit, limit), 0, -1)
    return next(size for size in sizes if heads % size == 0 and _suits(kv_heads, size))


def _suits(kv_heads: int, tp_size: int) -> bool:
    return not kv_heads or kv_heads % tp_size == 0 or tp_size % kv_heads == 0
