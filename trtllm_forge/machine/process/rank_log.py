"""The log of a child process, and one beside it for each rank above 0 that it started.

::

    sample-4711_1.log          rank 0 and the launcher
    sample-4711_1.rank1.log    rank 1
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import IO

    from typing_extensions import Self

    SplitRank = Callable[[str], tuple[int | None, str]]


def rank_log_path(log_path: Path, rank: int) -> Path:
    """Return the path of a rank's log, beside rank 0's."""
    return log_path.with_suffix(f".rank{rank}.log") if rank else log_path


class RankLog:
    """The open files. A write error drops the line: a full disk must not end a server.

    Args:
        log_path: The log of rank 0, appended to; its folder is created.
        split_rank: Splits a line into the rank that wrote it, or None, and its text. Without
            it all lines belong to rank 0.

    Raises:
        OSError: The log or its folder cannot be created.
    """

    def __init__(self, log_path: Path, split_rank: SplitRank | None = None) -> None:
        self._log_path = log_path
        self._split_rank = split_rank
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._files: dict[int, IO[bytes]] = {0: log_path.open("ab", buffering=0)}
        self._unfinished: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def write(self, raw: bytes) -> tuple[int, str]:
        """Write a line, or a part of a long one; return its rank and its text."""
        text = raw.decode(errors="replace").rstrip("\r\n")
        rank = self._unfinished
        if rank is None and self._split_rank is not None:
            found, text = self._split_rank(text)
            rank = found or 0
            raw = text.encode() + (b"\n" if raw.endswith(b"\n") else b"")
        rank = rank or 0
        self._unfinished = None if raw.endswith(b"\n") else rank
        with contextlib.suppress(OSError):
            self._file(rank).write(raw)
        return rank, text

    def _file(self, rank: int) -> IO[bytes]:
        if rank not in self._files:
            path = rank_log_path(self._log_path, rank)
            self._files[rank] = path.open("ab", buffering=0)
        return self._files[rank]
