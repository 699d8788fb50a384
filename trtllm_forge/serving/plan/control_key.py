"""The key that opens a server's model control, shared memory, tracing and logging.

Each start makes one. It is in a file of its own, which its user alone can read, and which goes
with the server::

    <state>/keys/<stamp>.key     0ab3...     mode 0600, the folder 0700

With it one may load a model, and a model is code: whoever has it runs what he likes as the
server's user. Triton takes it as an argument alone, and arguments can be read by every user of a
machine. So plans and reports hold a word in its place, and once Triton has read its arguments the
key is overwritten in them. What remains is the moment between the two.
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
"""Stands for the key wherever a command is shown."""

_ARG_START, _ARG_END = 45, 46
"""Fields 48 and 49 of ``/proc/<pid>/stat``, counted from the state, which is field 3."""

# Triton has read its arguments before it writes its first line, whose form is one of them.
_TRITON_LINE = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z [IWEF] \d+ \w+\.cc:\d+\]")


def key_path(state_dir: Path, stamp: str) -> Path:
    """Return where the key of a start is."""
    return state_dir / "keys" / f"{stamp}.key"


def put_into_command(key: str) -> Mapping[str, str]:
    """Return what the word is replaced with when the command is run: name and key of the header."""
    return {f"{CONTROL_HEADER}={KEY_WORD}": f"{CONTROL_HEADER}={key}"}


class KeyInArguments:
    """Overwrites a key in the arguments of a server that has read them.

    Args:
        key: The key.
        log_path: Where the server's lines go.
        log_offset: Where in it the lines of this start begin, in bytes.
        inner_group: Gives the group of a container's processes, where the server is in one.
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
        """Overwrite it in all processes of a group, once one of them has written a line."""
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
    """Overwrite words in what ``ps`` shows of a child; where the system forbids it, leave them."""
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
