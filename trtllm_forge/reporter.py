"""The interface through which work reports progress, so that nothing outside ``cli`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reporter(Protocol):
    """What stages, launchers and probes report while they work."""

    def stage_started(self, name: str, reasons: Sequence[str]) -> None:
        """Report that a stage runs, and why it is not fresh."""

    def stage_skipped(self, name: str, reasons: Sequence[str]) -> None:
        """Report that a stage is fresh, and why."""

    def stage_finished(self, name: str, seconds: float) -> None:
        """Report that a stage published its artifact after ``seconds``."""

    def command_started(self, argv: Sequence[str]) -> None:
        """Report the argv of a child process just before it runs."""

    def child_line(self, source: str, line: str) -> None:
        """Report a line written by a child process; ``source`` is its stage or rank."""

    def note(self, text: str) -> None:
        """Report a decision that the user should see."""

    def decision(self, text: str) -> None:
        """Report a choice and its reason; shown only in verbose output."""

    def warning(self, text: str) -> None:
        """Report a problem that does not stop the work."""

    def waiting(self, what: str, detail: str) -> None:
        """Report what is being waited for; ``detail`` may change while ``what`` stays the same."""

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """Report how much of ``total`` is done; ``unit`` is ``bytes`` or a plural noun."""


class SilentReporter:
    """A reporter that prints nothing, for library callers and tests."""

    def stage_started(self, name: str, reasons: Sequence[str]) -> None:
        """Ignore it."""

    def stage_skipped(self, name: str, reasons: Sequence[str]) -> None:
        """Ignore it."""

    def stage_finished(self, name: str, seconds: float) -> None:
        """Ignore it."""

    def command_started(self, argv: Sequence[str]) -> None:
        """Ignore it."""

    def child_line(self, source: str, line: str) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def decision(self, text: str) -> None:
        """Ignore it."""

    def warning(self, text: str) -> None:
        """Ignore it."""

    def waiting(self, what: str, detail: str) -> None:
        """Ignore it."""

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """Ignore it."""
