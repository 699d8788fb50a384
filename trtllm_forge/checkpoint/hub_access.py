"""How the Hub is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HubAccess:
    """How the Hub is reached.

    Attributes:
        endpoint: Its address, without a final slash.
        cache_dir: The user's HF cache.
        offline: Use only the cache.
        token: The user's token, sent to ``endpoint`` and nowhere else; never shown.
        retry_delay_s: Wait before the first retry, doubled before each further one.
    """

    endpoint: str
    cache_dir: Path
    offline: bool = False
    token: str | None = field(default=None, repr=False)
    retry_delay_s: float = 1.0
