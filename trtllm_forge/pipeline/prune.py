"""Remove entries from a store while builds may be using it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError, reason_of
from trtllm_forge.pipeline.inventory import forget_gone_repositories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.pipeline.inventory import StoredEntry
    from trtllm_forge.pipeline.store import Store


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """The entries that were removed, and those that were kept, each with the reason."""

    removed: tuple[StoredEntry, ...]
    kept: tuple[tuple[StoredEntry, str], ...]


def remove_entries(store: Store, entries: Sequence[StoredEntry]) -> Pruned:
    """Remove entries, except those that a build is writing or using.

    Raises:
        PrerequisiteError: The store cannot be written.
    """
    removed: list[StoredEntry] = []
    kept: list[tuple[StoredEntry, str]] = []
    try:
        for entry in entries:
            is_leftover = entry.state == "unfinished"
            why = store.remove_unused(entry.stage, entry.key, leftovers_only=is_leftover)
            if why:
                kept.append((entry, why))
            else:
                removed.append(entry)
        forget_gone_repositories(store)
    except OSError as error:
        what = f"the store {store.root} cannot be written"
        raise PrerequisiteError(what, why=reason_of(error, store.root)) from error
    return Pruned(removed=tuple(removed), kept=tuple(kept))
