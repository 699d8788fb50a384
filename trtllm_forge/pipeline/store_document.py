"""The output of ``forge cache``, as text and as JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from trtllm_forge.text.quantities import show_duration, show_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtllm_forge.pipeline.inventory import DiskUse, StoredEntry
    from trtllm_forge.pipeline.prune import Pruned

DOCUMENT_SCHEMA = 1

_HEADING = f"{'stage':<10}{'key':<14}{'size':>10}  {'made':<6}{'used':<6}by"


def show_count(entries: Sequence[StoredEntry]) -> str:
    """Return the number of entries in words."""
    return "1 entry" if len(entries) == 1 else f"{len(entries)} entries"


def entries_text(entries: Sequence[StoredEntry], now_s: float) -> str:
    """Return a table of entries: how long ago each was made and used, and what uses it."""
    lines = [_HEADING]
    for entry in entries:
        made, used = (show_duration(max(0, now_s - at)) for at in (entry.made_s, entry.used_s))
        by = ", ".join(str(path) for path in entry.used_by) or "-"
        note = "" if entry.state == "whole" else f"  ({entry.state})"
        size = show_size(entry.size_bytes)
        lines.append(
            f"{entry.stage:<10}{entry.key[:12]:<14}{size:>10}  {made:<6}{used:<6}{by}{note}"
        )
    return "\n".join(lines)


def entries_document(root: Path, entries: Sequence[StoredEntry]) -> dict[str, object]:
    """Return the table for ``--json``, with full keys and times in UTC."""
    return {
        "schema": DOCUMENT_SCHEMA,
        "cache": str(root),
        "entries": [_entry(entry) for entry in entries],
    }


def use_text(use: DiskUse) -> str:
    """Return the store's disk use, one line per stage."""
    rows = [*use.stages.items(), ("other", use.other_bytes), ("total", use.total_bytes)]
    return "\n".join(f"{name:<10}{show_size(size):>10}" for name, size in rows)


def use_document(root: Path, use: DiskUse) -> dict[str, object]:
    """Return the disk use for ``--json``, in bytes."""
    return {
        "schema": DOCUMENT_SCHEMA,
        "cache": str(root),
        "stages": dict(use.stages),
        "other_bytes": use.other_bytes,
        "total_bytes": use.total_bytes,
    }


def pruned_text(pruned: Pruned) -> str:
    """Return what was removed and, with the reason, what was kept."""
    size = sum(entry.size_bytes for entry in pruned.removed)
    lines = [f"removed {show_count(pruned.removed)}, {show_size(size)}"]
    lines += [f"kept {entry.stage} {entry.key[:12]}: {why}" for entry, why in pruned.kept]
    return "\n".join(lines)


def pruned_document(root: Path, pruned: Pruned, *, dry_run: bool) -> dict[str, object]:
    """Return the removed and kept entries for ``--json``."""
    return {
        "schema": DOCUMENT_SCHEMA,
        "cache": str(root),
        "dry_run": dry_run,
        "removed": [_entry(entry) for entry in pruned.removed],
        "kept": [{**_entry(entry), "why": why} for entry, why in pruned.kept],
    }


def _entry(entry: StoredEntry) -> dict[str, object]:
    return {
        "stage": entry.stage,
        "key": entry.key,
        "state": entry.state,
        "size_bytes": entry.size_bytes,
        "made": _utc(entry.made_s),
        "last_used": _utc(entry.used_s),
        "used_by": [str(path) for path in entry.used_by],
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat(timespec="seconds")
