"""One key of ``forge.yaml``: its type, bounds, default and help, and how its values are read.

A section declares its keys as fields::

    max_batch_size: int = key(64, "Requests per step.", least=1, most=2048)

Pydantic could do the same, but takes longer to import than all the rest of an unchanged build.
"""

from __future__ import annotations

import math
import re
import types
from dataclasses import Field, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["bool", "int", "float", "str"]

_METADATA = "key"
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What a text must look like.

    Attributes:
        expression: A regular expression for the whole text.
        words: The same in words.
        example: A matching text.
    """

    expression: str
    words: str
    example: str


@dataclass(frozen=True, kw_only=True)
class _Declared:
    """The arguments of ``key``; the field itself has the name, the type and the default."""

    help: str
    least: float | None
    most: float | None
    above: float | None
    pattern: Pattern | None
    flag: str
    has_flag_per_word: bool
    panel: str


def key(
    default: object,
    help_text: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    pattern: Pattern | None = None,
    flag: str = "",
    has_flag_per_word: bool = False,
    panel: str = "",
) -> Any:
    """Return the declaration of a key, a field of a section.

    Args:
        default: The default value.
        help_text: What it means, with its unit; one sentence.
        least: The smallest value allowed.
        most: The largest value allowed.
        above: An exclusive lower bound, instead of ``least``.
        pattern: What a text must look like.
        flag: The option that sets it, if not named after the key.
        has_flag_per_word: Whether each of its words is an option of its own.
        panel: The heading above its option in the help, if not the section.
    """
    declared = _Declared(
        help=help_text,
        least=least,
        most=most,
        above=above,
        pattern=pattern,
        flag=flag,
        has_flag_per_word=has_flag_per_word,
        panel=panel,
    )
    return field(default=default, metadata={_METADATA: declared})


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key that can be set.

    Attributes:
        section: Its section; empty at the top level.
        name: The key itself.
        kind: Type of the value.
        default: The default value.
        is_optional: Whether it may be without a value.
        choices: The allowed words; empty if any value of its kind is allowed.
        least: Lower bound.
        most: Upper bound.
        above: Whether ``least`` is excluded.
        pattern: What a text must look like.
        help: What it means, with its unit.
        flags: The options that set it.
        panel: The heading above its option in the help.
    """

    section: str
    name: str
    kind: Kind
    default: object
    is_optional: bool
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    above: bool
    pattern: Pattern | None
    help: str
    flags: tuple[str, ...]
    panel: str

    @property
    def path(self) -> str:
        """Return the key with its section, such as ``build.tp_size``."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def flag(self) -> str:
        """Return the option that sets it; ``precision`` has one per word instead."""
        return " ".join(self.flags)

    @property
    def variable(self) -> str:
        """Return the environment variable that sets it."""
        return f"FORGE_{self.name.upper()}"

    @property
    def values(self) -> str:
        """Return a description of the allowed values."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind == "bool":
            return "true, false"
        if self.pattern:
            return self.pattern.words
        word = {"int": "whole number", "float": "number", "str": "text"}[self.kind]
        least = None if self.least is None else f"{self.least:g}"
        if self.most is not None:
            return f"{word} {'above ' if self.above else ''}{least} to {self.most:g}"
        if least is not None:
            return f"{word} {'above ' if self.above else 'of at least '}{least}"
        return word

    def read(self, value: object) -> object:
        """Return a value converted to the key's type; text is parsed as in flags and variables.

        Raises:
            ValueError: The value is not allowed for this key.
        """
        if value is None and self.is_optional:
            return None
        try:
            read = _READERS[self.kind](value)
        except ValueError:
            raise self._wrong(value) from None
        if isinstance(read, str):
            is_right = read in self.choices if self.choices else self._is_text(read)
        else:
            is_right = isinstance(read, bool) or self._is_within(read)
        if not is_right:
            raise self._wrong(value)
        return read

    def _wrong(self, value: object) -> ValueError:
        return ValueError(f"{self.name} is {value!r}, wanted: {self.values}")

    def _is_text(self, text: str) -> bool:
        if self.pattern is None:
            return bool(text)
        return re.fullmatch(self.pattern.expression, text) is not None

    def _is_within(self, number: float) -> bool:
        if not math.isfinite(number):
            return False
        if self.most is not None and number > self.most:
            return False
        if self.least is None:
            return True
        return number > self.least if self.above else number >= self.least


def is_key(declared: Field[Any]) -> bool:
    """Return whether a field is a key rather than a section."""
    return not hasattr(_plain(declared.type)[0], "__dataclass_fields__")


def help_of(declared: Field[Any]) -> str:
    """Return the help of a key or section."""
    help_text: str = declared.metadata[_METADATA].help
    return help_text


def key_of(declared: Field[Any], section: str = "") -> ConfigKey:
    """Return the key that a field declares."""
    facts: _Declared = declared.metadata[_METADATA]
    plain, is_optional = _plain(declared.type)
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    words = choices if facts.has_flag_per_word else (declared.name,)
    return ConfigKey(
        section=section,
        name=declared.name,
        kind="str" if choices else plain.__name__,
        default=declared.default,
        is_optional=is_optional,
        choices=choices,
        least=facts.least if facts.above is None else facts.above,
        most=facts.most,
        above=facts.above is not None,
        pattern=facts.pattern,
        help=facts.help,
        flags=(facts.flag,) if facts.flag else tuple(f"--{w.replace('_', '-')}" for w in words),
        panel=facts.panel or section or "model",
    )


def _plain(annotation: Any) -> tuple[Any, bool]:
    """Return the type below ``X | None``, and whether None is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        (plain,) = (a for a in get_args(annotation) if a is not types.NoneType)
        return plain, True
    return annotation, False


def _bool(value: object) -> bool:
    word = str(value).lower()
    if isinstance(value, (bool, str)) and word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError(value)


def _int(value: object) -> int:
    # A bool is an int to Python, and true would be read as 1.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return int(value)


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(value)
    return float(value)


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


_READERS: dict[Kind, Callable[[object], bool | int | float | str]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
}
