"""The configuration objects, strict about their fields as pydantic's ``extra=forbid`` is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_POLICIES = ("MAX_UTILIZATION", "GUARANTEED_NO_EVICT", "STATIC_BATCH")


@dataclass(kw_only=True)
class KvCacheConfig:
    """As far as it is written."""

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = None
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= (self.free_gpu_memory_fraction or 0) <= 1:
            raise ValueError(f"free_gpu_memory_fraction is {self.free_gpu_memory_fraction}")


@dataclass(kw_only=True)
class SchedulerConfig:
    """As far as it is written."""

    capacity_scheduler_policy: str = "GUARANTEED_NO_EVICT"

    def __post_init__(self) -> None:
        if self.capacity_scheduler_policy not in _POLICIES:
            raise ValueError(f"{self.capacity_scheduler_policy} is no policy")


@dataclass(kw_only=True)
class CudaGraphConfig:
    """Batch sizes, or their maximum, with padding between them."""

    batch_sizes: list[int] | None = None
    max_batch_size: int = 0
    enable_padding: bool = False


@dataclass(kw_only=True)
class NGramDecodingConfig:
    """The n-gram drafter, which refuses to draft nothing."""

    max_draft_len: int | None = None
    max_concurrency: int | None = None
    max_matching_ngram_size: int = 0

    def __post_init__(self) -> None:
        if not (self.max_draft_len and self.max_matching_ngram_size):
            raise ValueError("max_draft_len and max_matching_ngram_size have to be above 0")


def decoding_config(settings: dict[str, Any]) -> NGramDecodingConfig:
    """Return the object for ``decoding_type``."""
    fields = dict(settings)
    if fields.pop("decoding_type", None) != "NGram":
        raise ValueError(f"Invalid decoding type: {settings.get('decoding_type')}")
    return NGramDecodingConfig(**fields)
