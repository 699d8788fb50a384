"""Which tensor and pipeline parallel sizes a model can be split into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_forge.checkpoint import CheckpointConfig
    from trtllm_forge.config.models import BuildSection
    from trtllm_forge.releases.flags import FlagTable


def require_mapping(
    build: BuildSection,
    checkpoint: CheckpointConfig,
    table: FlagTable | None,
    again: str,
) -> None:
    """Check that the model can be split.

    Raises:
        ConfigError: Heads, layers or the converter do not go with ``tp_size`` or ``pp_size``.
    """
    tp_size, pp_size = build.tp_size, build.pp_size
    if table and table.max_pp_size and pp_size > table.max_pp_size:
        what = f"{table.title} makes pp_size {table.max_pp_size}, {pp_size} was asked for"
        raise ConfigError(what, hint=f"{again} --tp {tp_size * pp_size} --pp 1")
    heads, kv_heads = checkpoint.num_heads, checkpoint.num_kv_heads
    if heads and heads % tp_size:
        what = f"{heads} attention heads cannot be split over tp_size {tp_size}"
        fitting = _largest_divisor(heads, tp_size)
        raise ConfigError(what, hint=f"{again} --tp {fitting}")
    if kv_heads and kv_heads % tp_size and tp_size % kv_heads:
        what = f"{kv_heads} KV heads can be neither split over nor repeated for tp_size {tp_size}"
        raise ConfigError(what, hint=f"{again} --tp {_largest_divisor(kv_heads, tp_size)}")
    if checkpoint.num_layers and pp_size > checkpoint.num_layers:
        what = f"{checkpoint.num_layers} layers cannot be split over pp_size {pp_size}"
        raise ConfigError(what, hint=f"{again} --pp 1")


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)
