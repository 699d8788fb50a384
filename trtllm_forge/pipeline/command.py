"""Runs one command of a stage to its end and turns a failure into an error that says why."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.errors import ForgeError
    from trtllm_forge.pipeline.stage import Command
    from trtllm_forge.reporter import Reporter

_LAST_LINES = 12


def run_command(
    command: Command,
    *,
    source: str,
    error: type[ForgeError],
    log_path: Path,
    reporter: Reporter,
) -> None:
    """Run ``command``, pass its lines on, and keep them in ``log_path``.

    Raises:
        ForgeError: Of the class ``error``: the command could not start, failed, or was killed.
    """
    from trtllm_forge.process import die_with_parent

    reporter.command_started(command.argv)
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        child = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env={**os.environ, **command.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    except OSError as cause:
        what = f"{source}: {command.argv[0]} cannot be started"
        raise error(what, why=str(cause)) from cause
    try:
        with log_path.open("w", encoding="utf-8") as log, child:
            assert child.stdout is not None
            for line in child.stdout:
                log.write(line)
                last_lines.append(line.rstrip())
                reporter.child_line(source, line.rstrip())
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if child.returncode:
        what = f"{source}: {_ending(child.returncode)}: {shlex.join(command.inner_argv)}"
        raise error(what, why=_cause(child.returncode, last_lines), log_path=log_path)


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


def _cause(returncode: int, last_lines: deque[str]) -> str:
    if returncode == -signal.SIGKILL:
        return "something killed it; most often that is the kernel when memory runs out"
    return "\n".join(line for line in last_lines if line.strip()) or "it printed nothing"
