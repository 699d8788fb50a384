r"""Known failures of the tools that forge starts: messages, causes and remedies.

``data/failures.yaml`` holds one entry per failure, the most specific first, and documents its own
fields. Building and serving share it. It is read at the first failure.

Programs that pass on a child's lines put marks before them, which are removed before matching::

    [1,0]<stderr>:[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp
    [11/10/2023-06:30:40] [TRT] [E] 2: [virtualMemoryBuffer.cpp::resizePhysical::140] Error ...
    E1114 09:30:00.910920 6946 model_lifecycle.cc:621] failed to load 'tensorrt_llm' version 1: ...
    2026-11-21T04:18:12Z E 12194 model_lifecycle.cc:642] "failed to load 'tensorrt_llm' ..."
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.files.resources import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Where = Literal["convert", "compile", "docker", "serve", "mpi", "any"]

# Any stage may run inside a container or under mpirun, so their failures may appear in each.
_WRAPPERS = frozenset({"docker", "mpi", "any"})
_MAX_SHOWN_LENGTH = 400
# The telling part is early in a line; the rest of a long one is a table or a stack.
_MAX_SEARCHED_LENGTH = 4000
_MARKS = re.compile(
    r"""^(?:
        \x1b\[[\d;]*m                                    # a colour
      | \[[^\]\s]*\d+\]<std(?:out|err)>:\s?              # mpirun --tag-output
      | \[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\]\s             # TensorRT's and TensorRT-LLM's time
      | \[(?:TRT|TRT-LLM)\]\s\[[A-Z]\]\s                 # and severity, from Python
      | \[TensorRT-LLM\]\[[A-Z]+\]\s                     # and from C++
      | [IWEF]\d{4}\s\S+\s\d+\s\S+\]\s+                  # Triton, older format
      | \d{4}-\d\d-\d\dT\S+\s[IWEF]\s\d+\s\S+\]\s        # Triton, newer format
    )+""",
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class KnownFailure:
    """One entry of the catalogue.

    Attributes:
        code: Its stable name.
        where: The kinds of child that fail this way.
        pattern: Searched in the lines, ``^`` and ``$`` matching at every line; None when the
            exit code is enough.
        returncodes: Exit codes that identify it, a signal's number negative.
        cause: Why, in one sentence; may name groups of the pattern in braces.
        hint: The remedy, a command or an edit; may name groups as well.
        message: A recorded message.
        thread: A public report of it, or empty.
        evidence: Where the wording comes from.
    """

    code: str
    where: frozenset[Where]
    pattern: re.Pattern[str] | None
    returncodes: frozenset[int]
    cause: str
    hint: str
    message: str
    thread: str
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A known failure, applied to the case at hand.

    Attributes:
        code: The failure's code.
        cause: Why it happened.
        hint: The remedy.
        thread: A public report of it, or empty.
        line: The matching line without the marks before it; empty when the exit code matched.
    """

    code: str
    cause: str
    hint: str
    thread: str
    line: str


@lru_cache(maxsize=1)
def known_failures() -> tuple[KnownFailure, ...]:
    """Return the catalogue, in the order in which it is searched."""
    return tuple(_entry(raw) for raw in read_yaml("failures.yaml")["failures"])


def find_failure(lines: Sequence[str], *, where: Where, returncode: int | None) -> Diagnosis | None:
    """Return the known failure that explains a failed child, or None.

    Args:
        lines: Its output, or the end of it.
        where: The kind of child; ``any`` when unknown.
        returncode: Its exit code, minus the signal's number for a signal; None while it runs.
    """
    text = "\n".join(_searched(lines))
    for failure in known_failures():
        if not _applies(failure, where):
            continue
        if returncode is not None and returncode in failure.returncodes:
            return _diagnosis(failure, groups={}, line="")
        match = failure.pattern.search(text) if failure.pattern else None
        if match:
            return _diagnosis(failure, groups=match.groupdict(), line=_line_around(text, match))
    return None


def without_marks(line: str) -> str:
    """Return ``line`` without the rank, time, severity and source before it."""
    return _MARKS.sub("", line).rstrip()


def _searched(lines: Sequence[str]) -> Iterator[str]:
    after_empty = False
    for line in lines:
        stripped = without_marks(line[:_MAX_SEARCHED_LENGTH])
        if stripped or not after_empty:
            yield stripped
        after_empty = not stripped


def _applies(failure: KnownFailure, where: Where) -> bool:
    return where == "any" or where in failure.where or bool(failure.where & _WRAPPERS)


def _diagnosis(failure: KnownFailure, *, groups: Mapping[str, str | None], line: str) -> Diagnosis:
    # A group may span two of the child's lines.
    values = {name: " ".join((value or "").split()) for name, value in groups.items()}
    return Diagnosis(
        code=failure.code,
        cause=failure.cause.format(**values),
        hint=failure.hint.format(**values),
        thread=failure.thread,
        line=line,
    )


def _line_around(text: str, match: re.Match[str]) -> str:
    # A pattern that may start in white space begins on the line of its first word.
    word = re.compile(r"\S").search(text, match.start())
    start = word.start() if word else match.start()
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", start)
    line = text[first : last if last >= 0 else len(text)].strip()
    if len(line) <= _MAX_SHOWN_LENGTH:
        return line
    # A line of a C++ exception may hold its whole stack.
    cut = max(0, min(start - first - 40, len(line) - _MAX_SHOWN_LENGTH))
    shown = line[cut : cut + _MAX_SHOWN_LENGTH].strip()
    return f"{'... ' if cut else ''}{shown}{' ...' if cut + _MAX_SHOWN_LENGTH < len(line) else ''}"


def _entry(raw: Mapping[str, Any]) -> KnownFailure:
    pattern = raw.get("pattern")
    return KnownFailure(
        code=raw["code"],
        where=frozenset(raw["where"]),
        pattern=re.compile(pattern, re.MULTILINE) if pattern else None,
        returncodes=frozenset(raw.get("returncodes", ())),
        cause=raw["cause"],
        hint=raw["hint"],
        message=raw.get("message", ""),
        thread=raw.get("thread", ""),
        evidence=raw["evidence"],
    )
