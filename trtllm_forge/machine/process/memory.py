"""The memory that processes hold."""

from __future__ import annotations

from pathlib import Path

from trtllm_forge.machine.process.lifeline import living_members


def memory_bytes(group: int) -> int:
    """Return the memory of a process group in bytes, counting shared pages once."""
    return sum(map(_proportional_bytes, living_members(group)))


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
