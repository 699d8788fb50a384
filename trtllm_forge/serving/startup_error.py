"""The error of a server that ended, or did not get ready, with the cause from its log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.errors import ServerError
from trtllm_forge.triton.startup_log import find_startup_failure, models_still_loading

if TYPE_CHECKING:
    from trtllm_forge.process import ManagedProcess

# On TERM and INT Triton exits by itself, with 0.
_OUTSIDE_ENDINGS = ("exit code 0", "signal SIGKILL", "signal SIGTERM")


def not_started_error(process: ManagedProcess) -> ServerError:
    """Return why a server ended before it was ready."""
    lines = _log_lines(process)
    failure = find_startup_failure(lines, returncode=process.returncode)
    if failure is None:
        what = f"Triton ended with {process.ending()} before it was ready"
        last = " | ".join(line for line in lines[-3:] if line.strip())
        why = f"its last lines: {last}" if last else "it wrote nothing"
        return ServerError(what, why=why, log_path=process.log_path)
    diagnosis = failure.diagnosis
    cause, hint = (diagnosis.cause, diagnosis.hint) if diagnosis else ("", "")
    if failure.model:
        what = f"model {failure.model} did not load: {failure.message}"
        facts = [failure.place, cause]
    else:
        what = f"Triton did not start: {failure.message}"
        facts = [cause or f"it ended with {process.ending()}"]
    why = "; ".join(filter(None, facts))
    return ServerError(what, why=why, hint=hint, log_path=process.log_path)


def not_ready_error(process: ManagedProcess, ready_timeout_s: float, command: str) -> ServerError:
    """Return what a server was doing when its deadline passed."""
    loading = ", ".join(models_still_loading(_log_lines(process)))
    what = f"Triton was not ready within {ready_timeout_s:g} s"
    why = f"it is alive and still loading {loading}" if loading else "it is alive"
    hint = f"{command} --ready-timeout-s {ready_timeout_s * 2:g}"
    return ServerError(what, why=why, hint=hint, log_path=process.log_path)


def ended_error(process: ManagedProcess, name: str, command: str) -> ServerError:
    """Return how a server that was ready has ended."""
    ending = process.ending()
    what = f"Triton (process {process.pid}), which served {name}, ended with {ending}"
    why = "somebody stopped it from outside" if ending in _OUTSIDE_ENDINGS else ""
    return ServerError(what, why=why, hint=command, log_path=process.log_path)


def _log_lines(process: ManagedProcess) -> list[str]:
    log = process.log_path.read_text(errors="replace").splitlines()
    return log or list(process.last_lines)  # a full disk has no log
