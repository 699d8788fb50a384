"""The key that opens a server's model control, shared memory, tracing and logging.

Each start makes one. It is in a file of its own, which only its user can read and which is
removed with the server::

    <state>/keys/<stamp>.key     0ab3...     mode 0600, the folder 0700

The key allows loading a model, and a model is code: anyone with the key can run code as the
server's user. Triton takes it only as an argument, and every user of a machine can read
arguments. So plans and reports hold a placeholder, and the key is overwritten in the arguments
once Triton has read them. It is exposed only in between.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.lifeline import living_members, stat_fields
from trtllm_forge.triton.client.address import CONTROL_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

KEY_WORD = "CONTROL_KEY"
"""Placeholder of the key in commands that are shown."""

_ARG_START, _ARG_END = 45, 46
"""Fields 48 and 49 of ``/proc/<pid>/stat``, counted from the state, which is field 3."""

# Triton reads its arguments before its first log line, because one of them sets the log format.
_TRITON_LINE = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z [IWEF] \d+ \w+\.cc:\d+\]")


def key_path(state_dir: Path, stamp: str) -> Path:
    """Return the path of a start's key."""
    return state_dir / "keys" / f"{stamp}.key"


def put_into_command(key: str) -> Mapping[str, str]:
    """Return the placeholder's replacement when the command is run: header name and key."""
    return {f"{CONTROL_HEADER}={KEY_WORD}": f"{CONTROL_HEADER}={key}"}


class KeyInArguments:
    """Overwrites the key in a server's arguments once the server has read them.

    Args:
        key: The key.
        log_path: The server's log.
        log_offset: Offset in it of this start's first line, in bytes.
        inner_group: Returns the process group inside a container, if the server is in one.
    """

    def __init__(
        self,
        key: str,
        log_path: Path,
        log_offset: int,
        inner_group: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._key = key.encode()
        self._log_path = log_path
        self._offset = log_offset
        self._inner_group = inner_group
        self._is_hidden = not key

    def hide(self, group: int, *, is_ready: bool = False) -> None:
        """Overwrite it in all processes of a group once one of them has written a line."""
        if self._is_hidden or not (is_ready or self._has_begun()):
            return
        for leader in filter(None, (group, self._inner_group())):
            for pid in living_members(leader):
                overwrite_in_arguments(pid, (self._key,))
        self._is_hidden = True

    def _has_begun(self) -> bool:
        with self._log_path.open("rb") as log:
            log.seek(self._offset)
            return _TRITON_LINE.search(log.read()) is not None


def overwrite_in_arguments(pid: int, words: Iterable[bytes]) -> None:
    """Overwrite words in a child's arguments as ``ps`` shows them, if the system allows it."""
    fields = stat_fields(pid)
    if len(fields) <= _ARG_END:
        return
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        arguments = memory.read(end - start)
        for word in words:
            place = arguments.find(word)
            while place >= 0:
                memory.seek(start + place)
                memory.write(b"*" * len(word))
                place = arguments.find(word, place + len(word))
