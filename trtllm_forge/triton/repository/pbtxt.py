"""Reads protobuf's text format leniently, with the position of every value.

``google.protobuf.text_format`` stops at the first mistake, drops positions, and takes 40 ms for
the five files of a repository. A linter has to continue, to name the line, and to replace a
value by its offsets. ``${...}`` is read as a value, so that what is around it can be
checked too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<skip>(?:[ \t\r\n\f\v]+|\#[^\n]*)+)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>(?:\$\{[^}\s]*\}|[A-Za-z0-9_.+\-])+)
      | (?P<mark>[{}\[\]<>:,;])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}


class Scalar(NamedTuple):
    """A value that is not a message; a tuple, because there are thousands.

    Attributes:
        value: Its content, without quotes and escapes.
        quoted: Whether it was quoted.
        line: Its line, from 1.
        start: Offset of its first character, quotes included.
        end: Offset after its last character.
    """

    value: str
    quoted: bool
    line: int
    start: int
    end: int

    @property
    def is_placeholder(self) -> bool:
        """Return whether it contains ``${...}``."""
        return "${" in self.value

    @property
    def number(self) -> int | None:
        """Return it as a whole number, or None."""
        return whole_number(self.value)


class Field(NamedTuple):
    """A name with its value, and the offsets from the name to the end of the value."""

    name: str
    value: Scalar | Message
    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Message:
    """The fields between two braces, in file order, with lists flattened."""

    fields: tuple[Field, ...]
    line: int
    start: int
    end: int

    @cached_property
    def _by_name(self) -> dict[str, list[Field]]:
        found: dict[str, list[Field]] = {}
        for entry in self.fields:
            found.setdefault(entry.name, []).append(entry)
        return found

    def all(self, name: str) -> list[Field]:
        """Return the fields of a name."""
        return self._by_name.get(name, [])

    def messages(self, name: str) -> list[Message]:
        """Return the fields of a name that are messages."""
        return [f.value for f in self.all(name) if isinstance(f.value, Message)]

    def message(self, name: str) -> Message | None:
        """Return the last message of a name."""
        found = self.messages(name)
        return found[-1] if found else None

    def scalars(self, name: str) -> list[Scalar]:
        """Return the fields of a name that are plain values."""
        return [f.value for f in self.all(name) if isinstance(f.value, Scalar)]

    def scalar(self, name: str) -> Scalar | None:
        """Return the last plain value of a name."""
        found = self.scalars(name)
        return found[-1] if found else None

    def text(self, name: str) -> str:
        """Return the text of a name's plain value, or an empty text."""
        found = self.scalar(name)
        return found.value if found else ""


@dataclass(frozen=True)
class SyntaxMistake:
    """The position and reason of a syntax error."""

    line: int
    message: str


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def whole_number(text: str) -> int | None:
    """Return a text as a whole number, or None."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else None


@lru_cache(maxsize=64)
def parse_pbtxt(text: str) -> tuple[Message, tuple[SyntaxMistake, ...]]:
    """Return the readable part of a text, and the mistakes in it.

    A build reads each file after rendering and again in the check, so results are cached.
    """
    reader = _Reader(text)
    message = reader.message(closing=None, line=1, start=0)
    return message, tuple(reader.mistakes)


@dataclass
class _Reader:
    text: str
    mistakes: list[SyntaxMistake] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._line_starts = [0, *(m.end() for m in re.finditer(r"\n", self.text))]
        self._tokens = list(self._tokenize())
        self._next = 0

    def _tokenize(self) -> Iterator[_Token]:
        for match in _TOKEN.finditer(self.text):
            kind = match.lastgroup
            if kind != "skip":
                yield _Token(kind or "other", match.group(), match.start())

    def _line(self, offset: int) -> int:
        return bisect_right(self._line_starts, offset)

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _skip(self, mark: str) -> bool:
        # A string keeps its quotes, so that it never equals a mark.
        if self._next < len(self._tokens) and self._tokens[self._next].text == mark:
            self._next += 1
            return True
        return False

    def _mistake(self, token: _Token, wanted: str) -> None:
        message = f"{wanted} was expected, not {token.text[:40]}"
        if token.kind == "other" and token.text in "\"'":
            message = "a string without a closing quote"
        self.mistakes.append(SyntaxMistake(self._line(token.start), message))

    def message(self, *, closing: str | None, line: int, start: int) -> Message:
        """Read fields up to ``closing``, or to the end of the text."""
        fields: list[Field] = []
        while True:
            token = self._peek()
            if token is None:
                if closing is not None:
                    self.mistakes.append(SyntaxMistake(line, "a { that is never closed"))
                return Message(tuple(fields), line, start, len(self.text))
            self._next += 1
            if token.kind == "mark" and token.text == closing:
                return Message(tuple(fields), line, start, token.start + 1)
            if token.kind == "word":
                self._field(token, fields)
            elif not (token.kind == "mark" and token.text in ",;"):
                self._mistake(token, "the name of a field")

    def _field(self, name: _Token, fields: list[Field]) -> None:
        colon = self._skip(":")
        for value, end in self._values(colon=colon):
            line = value.line if isinstance(value, Message) else self._line(name.start)
            fields.append(Field(name.text, value, line, name.start, end))

    def _values(self, *, colon: bool) -> Iterator[tuple[Scalar | Message, int]]:
        token = self._peek()
        if token is None:
            last = self._tokens[-1]
            self.mistakes.append(SyntaxMistake(self._line(last.start), "a field without a value"))
        elif self._skip("["):
            while not self._skip("]"):
                before = self._next
                yield from self._value(colon=True)
                self._skip(",")
                if self._next == before:
                    # Only at the end has this token not been reported yet.
                    if self._peek() is None:
                        line = self._line(token.start)
                        self.mistakes.append(SyntaxMistake(line, "a [ that is never closed"))
                    return
        else:
            yield from self._value(colon=colon)

    def _value(self, *, colon: bool) -> Iterator[tuple[Scalar | Message, int]]:
        token = self._peek()
        if token is None:
            return
        if token.kind == "mark" and token.text in _CLOSING:
            self._next += 1
            line = self._line(token.start)
            message = self.message(closing=_CLOSING[token.text], line=line, start=token.start)
            yield message, message.end
        elif token.kind in ("string", "word"):
            if not colon:
                self._mistake(token, ": or {")
            scalar = self._scalar()
            yield scalar, scalar.end
        else:
            self._mistake(token, "a value")

    def _scalar(self) -> Scalar:
        first = self._tokens[self._next]
        self._next += 1
        line, end = self._line(first.start), first.start + len(first.text)
        if first.kind == "word":
            return Scalar(first.text, False, line, first.start, end)
        value = _unquote(first.text)
        # Adjacent strings are concatenated.
        while (token := self._peek()) is not None and token.kind == "string":
            self._next += 1
            value += _unquote(token.text)
            end = token.start + len(token.text)
        return Scalar(value, True, line, first.start, end)


def _unquote(text: str) -> str:
    body = text[1:-1]
    return _ESCAPE.sub(_unescape, body) if "\\" in body else body


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPED.get(code, code)
