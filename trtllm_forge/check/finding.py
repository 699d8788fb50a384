"""What a rule says of a repository, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.check.explanation import Explanation, read_explanation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trtllm_forge.check.view import RepositoryView

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class TextEdit:
    """A replacement in a file: the characters from ``start`` to ``end`` become ``text``."""

    path: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """An empty file to be made, its folders included."""

    path: str


Edit = TextEdit | NewFile


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One place where a rule is broken.

    Attributes:
        message: What is wrong, with the wanted and the found value.
        model: The model's folder, or nothing when it is about the whole repository.
        path: The file, relative to the repository.
        line: Where in it, from 1.
        hint: What mends it; may be empty.
        severity: Instead of the rule's own.
        edits: What mends it for certain; empty when there is more than one right answer.
    """

    message: str
    model: str = ""
    path: str = ""
    line: int | None = None
    hint: str = ""
    severity: Severity | None = None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that a repository can break.

    Attributes:
        code: ``FL101``; it never changes its meaning.
        name: In words joined by dashes.
        severity: Of its findings, unless one says otherwise.
        check: Finds the places where it is broken; its docstring explains the rule.
    """

    code: str
    name: str
    severity: Severity
    check: Callable[[RepositoryView], Iterable[Problem]]

    @property
    def explanation(self) -> Explanation:
        """Return what the docstring of its function says."""
        return read_explanation(self.check.__doc__)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One place where a repository breaks a rule."""

    code: str
    severity: Severity
    model: str
    path: str
    line: int | None
    message: str
    hint: str
    edits: tuple[Edit, ...] = ()

    def document(self) -> dict[str, object]:
        """Return it as ``forge check --json`` prints it."""
        return {
            "code": self.code,
            "severity": self.severity,
            "model": self.model,
            "path": self.path,
            "line": self.line,
            "message": self.message,
            "hint": self.hint,
        }
