"""Runs one command of a stage to its end and turns a failure into an error that says why."""

from __future__ import annotations

import errno
import os
import shlex
import signal
from typing import TYPE_CHECKING

from trtllm_forge.process import ManagedProcess, environment_without_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.errors import ForgeError
    from trtllm_forge.pipeline.stage import Command
    from trtllm_forge.reporter import Reporter

_SHOWN_LINES = 8


def run_command(
    command: Command,
    *,
    source: str,
    error: type[ForgeError],
    log_path: Path,
    reporter: Reporter,
) -> None:
    """Run ``command``, pass its lines on, and keep them in ``log_path``.

    The child gets forge's environment but for the token of the Hub, which no command needs.

    Raises:
        ForgeError: Of the class ``error``: the command failed or was killed.
        PrerequisiteError: It could not be started.
        OSError: It says that no space is left; the runner knows on which disk.
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
        if any(os.strerror(errno.ENOSPC) in line for line in child.last_lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        what = f"{source}: {child.ending()}: {shlex.join(command.inner_argv)}"
        raise error(what, why=_cause(code, child.last_lines), log_path=log_path)


def _cause(code: int, last_lines: tuple[str, ...]) -> str:
    if code == -signal.SIGKILL:
        return "something killed it; most often that is the kernel when memory runs out"
    written = [line for line in last_lines if line.strip()]
    return "\n".join(written[-_SHOWN_LINES:]) or "it printed nothing"
