"""The only place that writes to stdout or stderr and turns errors into exit codes.

stdout is the result: text, or exactly one JSON document with ``--json``. stderr is everything
else. A failure is printed as::

    error: what happened
      why:  the key, flag or line behind it
      try:  what works as typed
      log:  the child process's log

and with ``--json`` as ``{"schema": 1, "error": {"what", "why", "hint", "log_path", "exit_code"}}``.
"""

from __future__ import annotations

import contextlib
import json as json_text
import os
import shlex
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import typer

from trtllm_forge.errors import INTERRUPTED_EXIT_CODE, ForgeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TextIO

ERROR_SCHEMA = 1
BROKEN_PIPE_EXIT_CODE = 141
"""What a shell reports for a program ended by SIGPIPE: 128 + 13."""

_REPORT_HINT = "report the traceback above together with the output of: forge --version"
_NAME_WIDTH = 10
_TIME_WIDTH = 10


class _StdoutClosedError(Exception):
    """The reader of stdout has gone away."""


class _UnwritableError(ForgeError):
    """stdout cannot be written: its disk is full, or it is closed."""


class Console:
    """Human text, JSON and progress; a ``trtllm_forge.reporter.Reporter``.

    Args:
        json: Print one JSON document on stdout instead of text.
        verbose: 1 adds decisions, argv and error causes; 2 adds the lines of child processes.
        quiet: Print only errors, warnings and the result.
    """

    def __init__(self, *, json: bool = False, verbose: int = 0, quiet: bool = False) -> None:
        self._json = json
        self._verbose = verbose
        self._quiet = quiet
        self._reasons: dict[str, str] = {}
        self._bars: Any = None
        self._bar_ids: dict[str, Any] = {}
        self._status: Any = None
        self._waiting_for = ""
        # Downloads report from several threads.
        self._lock = threading.RLock()

    def result(self, text: str, document: Mapping[str, object]) -> None:
        """Write the result to stdout: the text, or the document in JSON mode."""
        self._close_bars()
        self._write_out(_as_json(document) if self._json else f"{text}\n")

    def stream(self, text: str) -> None:
        """Write text to stdout unchanged and at once; nothing in JSON mode."""
        if not self._json:
            self._close_bars()
            self._write_out(text)

    def next_step(self, command: str) -> None:
        """Print the command to type next."""
        if not self._json:
            self._say(f"next: {command}")

    def stage_started(self, name: str, reasons: Sequence[str]) -> None:
        """Remember the reasons for the stage's final line; with ``-v``, print that it runs."""
        self._reasons[name] = "; ".join(reasons)
        if self._verbose:
            self._say_stage(name, "run", self._reasons[name])

    def stage_skipped(self, name: str, reasons: Sequence[str]) -> None:
        """Print that a stage is fresh, and why."""
        self._say_stage(name, "fresh", "; ".join(reasons))

    def stage_finished(self, name: str, seconds: float) -> None:
        """Print how long a stage took and why it ran."""
        self._say_stage(name, f"{seconds:.1f} s", self._reasons.pop(name, ""))

    def command_started(self, argv: Sequence[str]) -> None:
        """Print the argv of a child process, with ``-v``."""
        if self._verbose:
            self._say(f"  $ {shlex.join(argv)}")

    def child_line(self, source: str, line: str) -> None:
        """Print a line of a child process, with ``-vv``."""
        if self._verbose > 1:
            self._say(f"  {source} | {line.rstrip()}")

    def note(self, text: str) -> None:
        """Print a note."""
        self._say(text)

    def decision(self, text: str) -> None:
        """Print a choice and its reason, with ``-v``."""
        if self._verbose:
            self._say(text)

    def waiting(self, what: str, detail: str) -> None:
        """Update one line on a terminal; elsewhere print a line whenever ``what`` changes."""
        if self._quiet or (self._json and _is_terminal(sys.stderr)):
            return
        line = f"{what} ({detail})" if detail else what
        if not _is_terminal(sys.stderr):
            if what != self._waiting_for:
                self._say(line)
            self._waiting_for = what
            return
        with self._lock:
            if self._status is None:
                self._close_bars()
                self._status = _start_status()
            self._status.update(line)

    def warning(self, text: str) -> None:
        """Print a warning, even with ``-q``."""
        self._write_err(f"warning: {text}\n")

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """Update a progress bar; nothing unless stderr is a terminal."""
        if self._quiet or self._json or not _is_terminal(sys.stderr):
            return
        with self._lock:
            if self._bars is None:
                self._bars = _start_bars()
            if name not in self._bar_ids:
                self._bar_ids[name] = self._bars.add_task(name, total=total, unit=unit)
            self._bars.update(self._bar_ids[name], completed=done, total=total)

    def confirm(self, question: str) -> bool:
        """Ask on the terminal; without one, the answer is no."""
        if self._json or not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
            return False
        self._write_err(f"{question} [y/N] ")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def close(self) -> None:
        """Remove the progress bars from the screen."""
        self._close_bars()

    def _error(self, error: ForgeError, exit_code: int) -> None:
        self._close_bars()
        if self._json and not isinstance(error, _UnwritableError):
            self._write_out(_as_json(_error_document(error, exit_code)))
        else:
            self._write_err(f"{error_text(error)}\n")
        if self._verbose and error.__cause__ is not None:
            self._traceback(error.__cause__)

    def _traceback(self, error: BaseException) -> None:
        self._write_err(_safe("".join(traceback.format_exception(error))))

    def _say(self, line: str) -> None:
        if not self._quiet:
            self._write_err(f"{line}\n")

    def _say_stage(self, name: str, state: str, reasons: str) -> None:
        self._say(f"{name:<{_NAME_WIDTH}}{state:<{_TIME_WIDTH}}{reasons}".rstrip())

    def _write_out(self, text: str) -> None:
        if sys.stdout is None:
            what = "cannot write the result: stdout is closed"
            raise _UnwritableError(what)
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _StdoutClosedError from error
        except (OSError, ValueError) as error:
            # ValueError: the stream is closed, or its encoding lacks a character.
            what = f"cannot write the result: {getattr(error, 'strerror', None) or error}"
            raise _UnwritableError(what) from error

    def _write_err(self, text: str) -> None:
        with self._lock:
            self._close_bars()
            # If stderr is closed or full there is nowhere to print; the exit code still reports it.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(text)
                sys.stderr.flush()
                return
            _discard(sys.stderr)

    def _close_bars(self) -> None:
        with self._lock:
            if self._status is not None:
                self._status.stop()
                self._status = None
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
                self._bar_ids.clear()


@contextlib.contextmanager
def open_console(*, json: bool = False, verbose: int = 0, quiet: bool = False) -> Iterator[Console]:
    """Yield a console; turn exceptions raised inside into printed errors and exit codes."""
    console = Console(json=json, verbose=verbose, quiet=quiet)
    try:
        try:
            yield console
        except (typer.Exit, typer.Abort):
            raise
        except _StdoutClosedError:
            raise
        except ForgeError as error:
            _tell(console, error, error.exit_code)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _tell(console, ForgeError("interrupted"), INTERRUPTED_EXIT_CODE)
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
        except Exception as error:
            console._traceback(error)
            what = _safe(f"forge has a bug: {type(error).__name__}: {error}")
            _tell(console, ForgeError(what, hint=_REPORT_HINT), ForgeError.exit_code)
            raise typer.Exit(ForgeError.exit_code) from None
    except _StdoutClosedError:
        _discard(sys.stdout)
        raise typer.Exit(BROKEN_PIPE_EXIT_CODE) from None
    finally:
        console.close()


def _tell(console: Console, error: ForgeError, exit_code: int) -> None:
    """Print an error; an error of stdout itself always goes to stderr."""
    try:
        console._error(error, exit_code)
    except _UnwritableError as unwritable:
        _discard(sys.stdout)
        console._write_err(f"{error_text(error)}\n{error_text(unwritable)}\n")
    else:
        if isinstance(error, _UnwritableError):
            _discard(sys.stdout)


def _discard(stream: TextIO | None) -> None:
    """Redirect a stream to /dev/null, so that the interpreter can flush it at exit."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def error_text(error: ForgeError) -> str:
    """Return an error as it is printed, without the final newline."""
    log = str(error.log_path) if error.log_path else ""
    lines = [f"error: {error.what}"]
    for label, text in (("why", error.why), ("try", error.hint), ("log", log)):
        if text:
            lines.append(f"  {label}:  " + text.replace("\n", "\n        "))
    return "\n".join(lines)


def _error_document(error: ForgeError, exit_code: int) -> dict[str, object]:
    return {
        "schema": ERROR_SCHEMA,
        "error": {
            "what": error.what,
            "why": error.why,
            "hint": error.hint,
            "log_path": str(error.log_path) if error.log_path else None,
            "exit_code": exit_code,
        },
    }


def _safe(text: str) -> str:
    """Return text from elsewhere with the passwords in its URLs removed."""
    from trtllm_forge.machine.process.secrets import without_credentials

    return without_credentials(text)


def _as_json(document: Mapping[str, object]) -> str:
    return json_text.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _start_status() -> Any:
    from rich.console import Console as RichConsole
    from rich.status import Status

    status = Status("", console=RichConsole(stderr=True))
    status.start()
    return status


def _start_bars() -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[unit]}"),
        # rich reads NO_COLOR itself.
        console=RichConsole(stderr=True),
        transient=True,
    )
    bars.start()
    return bars
