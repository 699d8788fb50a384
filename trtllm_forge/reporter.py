"""The named moments that work reports, so that nothing outside ``cli`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reporter(Protocol):
    """What stages, launchers and probes tell whoever is watching."""

    def stage_started(self, name: str, reasons: Sequence[str]) -> None:
        """Tell that a stage runs, and why it is not fresh."""

    def stage_skipped(self, name: str, reasons: Sequence[str]) -> None:
        """Tell that a stage is fresh, and by what."""

    def stage_finished(self, name: str, seconds: float) -> None:
        """Tell that a stage published its artifact after ``seconds``."""

    def command_started(self, argv: Sequence[str]) -> None:
        """Tell the argv of a child process just before it runs."""

    def child_line(self, source: str, line: str) -> None:
        """Pass on one line that a child process wrote; ``source`` is its stage or rank."""

    def note(self, text: str) -> None:
        """Tell a decision the user should see."""

    def decision(self, text: str) -> None:
        """Tell a choice that was made, and why, to who asks for more."""

    def warning(self, text: str) -> None:
        """Tell of something that is not right but does not stop the work."""

    def waiting(self, what: str, detail: str) -> None:
        """Tell what is waited for now; ``detail`` changes while ``what`` stays the same."""

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """Tell how much of ``total`` is done; ``unit`` is ``bytes`` or a plural noun."""


class SilentReporter:
    """A reporter that keeps quiet, for library callers and tests."""

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
