"""Every error a user can meet, with its exit code.

::

    ForgeError                1  a bug unless a subclass says otherwise
    ├── ConfigError           2  wrong flags or forge.yaml (Typer's own usage code)
    ├── PrerequisiteError     3  no GPU, library, executable or token
    ├── CheckpointError       4  download or verification failed
    ├── BuildError            5  convert or compile failed
    ├── RenderError           6  template or rendered model repository invalid
    ├── ServerError           7  Triton did not start, died, or was not ready in time
    └── ProbeError            8  server up, answer wrong

130 means interrupted. Nothing here prints: ``cli.console`` turns an error into text or JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

INTERRUPTED_EXIT_CODE = 130


class ForgeError(Exception):
    """Something the user can read and act on.

    Attributes:
        what: What went wrong, with both numbers, wanted and found, and units.
        why: The config key, flag or file and line behind it; may be empty.
        hint: A command or edit that works as typed; may be empty.
        log_path: The log of a child process, if there is one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, why: str = "", hint: str = "", log_path: Path | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.log_path = log_path


class ConfigError(ForgeError):
    """Wrong flags or ``forge.yaml``."""

    exit_code = 2


class PrerequisiteError(ForgeError):
    """The machine lacks something: GPU, library, executable or token."""

    exit_code = 3


class CheckpointError(ForgeError):
    """A checkpoint could not be downloaded, read or verified."""

    exit_code = 4


class BuildError(ForgeError):
    """``convert`` or ``compile`` failed."""

    exit_code = 5


class RenderError(ForgeError):
    """A template or the rendered model repository is invalid."""

    exit_code = 6


class ServerError(ForgeError):
    """Triton did not start, died, or was not ready in time."""

    exit_code = 7


class ProbeError(ForgeError):
    """The server is up, but its answer is wrong."""

    exit_code = 8


def unreadable(
    path: Path, error: Exception, kind: type[ForgeError] = ConfigError, *, hint: str = ""
) -> ForgeError:
    """Return the error for a file or folder that cannot be read."""
    return kind(f"{path} cannot be read", why=reason_of(error, path), hint=hint)


def unwritable(
    path: Path, error: OSError, kind: type[ForgeError] = ConfigError, *, hint: str = ""
) -> ForgeError:
    """Return the error for a file or folder that cannot be written."""
    return kind(f"{path} cannot be written", why=reason_of(error, path), hint=hint)


def reason_of(error: Exception, path: Path | None = None) -> str:
    """Return why a file could not be read or written: ``/srv/out: permission denied``.

    The file is the one named by the system. It is left out if no ``path`` is given, or if it is
    ``path`` itself or a scratch file beside it.
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    reason, named = error.strerror.lower(), error.filename
    if path is None or not isinstance(named, str) or Path(named).parent == path.parent:
        return reason
    return f"{named}: {reason}"
