"""Runs one command of a stage and turns a failure into an error with its cause."""

from __future__ import annotations

import errno
import os
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.failures import Diagnosis, Where, find_failure
from trtllm_forge.machine.process.managed import ManagedProcess
from trtllm_forge.machine.process.secrets import environment_without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.errors import ForgeError
    from trtllm_forge.reporter import Reporter

_SHOWN_LINES = 8
# Ranks that fail together write hundreds of stack lines after the telling one.
_SEARCHED_BYTES = 1 << 18
_STAGES: dict[str, Where] = {"convert": "convert", "compile": "compile"}


def run_command(
    command: Command,
    *,
    source: str,
    error: type[ForgeError],
    log_path: Path,
    reporter: Reporter,
) -> None:
    """Run ``command``, report its lines, and keep them in ``log_path``.

    The child gets forge's environment without the Hub token, which no command needs.

    Raises:
        ForgeError: Of the class ``error``: the command failed or was killed.
        PrerequisiteError: It could not be started.
        OSError: The command reported a full disk; the runner knows which one.
    """
    log_path.unlink(missing_ok=True)
    with ManagedProcess(
        command.argv,
        source=source,
        log_path=log_path,
        reporter=reporter,
        env={**environment_without_secrets(), **command.env},
        cwd=command.cwd,
    ) as child:
        code = child.wait()
        if code == 0:
            return
        if any(_is_full_disk(line) for line in child.last_lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        what = f"{source}: {child.ending()}: {shlex.join(command.inner_argv)}"
        known = find_failure(
            _searched_lines(log_path, child.last_lines),
            where=_STAGES.get(source, "any"),
            returncode=code,
        )
        if known is not None:
            raise error(what, why=_known_cause(known), hint=known.hint, log_path=log_path)
        raise error(what, why=_last_lines(child.last_lines), log_path=log_path)


def _is_full_disk(line: str) -> bool:
    # A full /dev/shm is memory; the catalogue has the hint for it.
    return os.strerror(errno.ENOSPC) in line and "shm" not in line and "shared memory" not in line


def _searched_lines(log_path: Path, last_lines: tuple[str, ...]) -> Sequence[str]:
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _SEARCHED_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return last_lines
    return lines or last_lines  # a full disk has an empty log


def _known_cause(known: Diagnosis) -> str:
    return f"{known.cause}\n{known.line}" if known.line else known.cause


def _last_lines(lines: tuple[str, ...]) -> str:
    written = [line for line in lines if line.strip()]
    return "\n".join(written[-_SHOWN_LINES:]) or "it printed nothing"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A child process that a stage starts.

    Attributes:
        argv: What is executed, after the executor's wrapping.
        inner_argv: The command without the wrapping; equal to ``argv`` when there is none.
        env: Variables set on top of forge's own environment; never a secret.
        cwd: Working directory, or None for forge's own.
    """

    argv: tuple[str, ...]
    inner_argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
