"""Stops servers from outside: signals the owner, and cleans up after a killed one."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import ServerError, reason_of
from trtllm_forge.machine.process import lifeline
from trtllm_forge.serving.plan.launch_plan import leftovers
from trtllm_forge.serving.records.find import state_lock
from trtllm_forge.serving.records.record import read_record, record_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.serving.records.record import ProcessId, ServerRecord

Stopped = Literal["drained", "killed", "cleared up", "not running"]
"""Outcome: requests finished, were cut off, the owner had been killed, or it had ended before."""

_POLL_S = 0.02
_KILL_WAIT_S = 20.0
# On top of the drain: time to unload the models.
_MARGIN_S = 15.0


def stop_servers(
    records: Sequence[ServerRecord], state_dir: Path, timeout_s: float | None, *, forget: bool
) -> Mapping[str, Stopped]:
    """Stop servers concurrently and return each outcome, by name.

    Raises:
        ServerError: One cannot be stopped; the others are.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=max(1, len(records))) as pool:
        stops = [(r, pool.submit(stop_server, r, state_dir, timeout_s)) for r in records]
    stopped = {record.name: stop.result() for record, stop in stops}
    if forget:
        for record in records:
            forget_server(record, state_dir)
    return stopped


def stopped_text(stopped: Mapping[str, Stopped]) -> str:
    """Return the text that the command line prints."""
    words = {
        "drained": "stopped",
        "killed": "stopped; requests still running were cut off",
        "cleared up": "was not running; its leftovers are removed",
        "not running": "was not running",
    }
    return "\n".join(f"{name} {words[how]}" for name, how in stopped.items()) or "nothing to stop"


def stop_server(record: ServerRecord, state_dir: Path, timeout_s: float | None) -> Stopped:
    """Stop a server, wait until nothing of it runs, and return the outcome.

    Args:
        record: The server.
        state_dir: Folder of the records.
        timeout_s: When to cut off running requests; None for the server's drain timeout.

    Raises:
        ServerError: This user may not stop its owner, or the owner does not end.
    """
    if not record.is_running:
        end_orphan(record, state_dir)
        return "cleared up" if record.state == "lost" else "not running"
    _signal(record, signal.SIGTERM)
    if timeout_s is None:
        timeout_s = record.drain_timeout_s + _MARGIN_S
    if _has_ended(record.owner, timeout_s):
        return "drained"
    # A second signal stops it immediately.
    _signal(record, signal.SIGTERM)
    if not _has_ended(record.owner, _KILL_WAIT_S):
        what = (
            f"{record.name} does not stop: its owner, process {record.owner.pid}, is still running"
        )
        hint = f"kill -9 {record.owner.pid}"
        raise ServerError(what, hint=hint, log_path=record.log_path)
    return "killed"


def end_orphan(record: ServerRecord, state_dir: Path) -> None:
    """End the rest of a server whose owner is gone, and remove its leftovers."""
    if record.is_running:
        return
    triton = record.triton
    was_running = triton is not None and triton.is_running()
    if triton is not None and was_running:
        lifeline.signal_group(triton.pid, signal.SIGKILL)
        lifeline.wait_for_end(triton.pid, _KILL_WAIT_S)
    in_container = record.container is not None
    # The docker client may have requested a container just before.
    lifeline.remove_leftovers(
        leftovers(state_dir, record.stamp, in_container=in_container), is_patient=was_running
    )


def forget_server(record: ServerRecord, state_dir: Path) -> None:
    """Remove an ended server's record, and with it its remembered ports."""
    with state_lock(state_dir):
        path = record_path(state_dir, record.name)
        found = read_record(path)
        if found is not None and found.stamp == record.stamp and not found.is_running:
            path.unlink(missing_ok=True)


def _signal(record: ServerRecord, number: signal.Signals) -> None:
    try:
        # The handle prevents signalling another process that reused the id.
        handle = os.pidfd_open(record.owner.pid)
    except ProcessLookupError:
        return
    try:
        if record.owner.is_running():
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        what = (
            f"{record.name} cannot be stopped: process {record.owner.pid} belongs to another user"
        )
        raise ServerError(what, why=reason_of(error)) from error
    finally:
        os.close(handle)


def _has_ended(owner: ProcessId, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while owner.is_running():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
