"""Reads the end of a server's log, and follows it while the server runs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from trtllm_forge.serving.records.record import read_record, record_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trtllm_forge.serving.records.record import ServerRecord

_BLOCK_BYTES = 1 << 16
_LOOK_EACH_S = 0.1


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """Return the last lines of a file, read from its end, and its size at that time."""
    with path.open("rb") as file:
        end = start = file.seek(0, os.SEEK_END)
        text = b""
        # One more line end than lines: the one before the first line.
        while start > 0 and text.count(b"\n") <= count:
            size = min(_BLOCK_BYTES, start)
            start -= size
            file.seek(start)
            text = file.read(size) + text
    lines = text.decode(errors="replace").splitlines()
    return (lines[-count:] if count else []), end


def follow(record: ServerRecord, state_dir: Path, offset: int) -> Iterator[str]:
    """Yield what is written to a server's log after ``offset`` until the server has ended."""
    path = record_path(state_dir, record.name)
    with record.log_path.open("r", errors="replace") as file:
        file.seek(offset)
        while True:
            current = read_record(path)
            # Checked before reading, so that its last output is still read.
            is_over = (
                current is None or current.log_path != record.log_path or not current.is_running
            )
            while text := file.read(_BLOCK_BYTES):
                yield text
            if is_over:
                return
            time.sleep(_LOOK_EACH_S)
