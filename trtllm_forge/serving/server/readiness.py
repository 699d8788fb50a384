"""Waits until a server is ready, within a timeout, and reports progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.memory import memory_bytes
from trtllm_forge.serving.plan.control_key import KeyInArguments
from trtllm_forge.serving.plan.ports import is_held_by_group
from trtllm_forge.serving.server.container_watch import container_leader, is_container_running
from trtllm_forge.serving.server.startup_error import not_ready_error, not_started_error
from trtllm_forge.text.quantities import show_size
from trtllm_forge.triton.client.http import TritonHttp
from trtllm_forge.triton.launch.startup_log import LoadedModels

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.machine.process.managed import ManagedProcess
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.launch_plan import LaunchPlan


# A faster start needs no progress, and measuring memory slows it down.
_FIRST_TOLD_S = 2.0
_TELL_EACH_S = 1.0


def wait_until_ready(
    plan: LaunchPlan,
    process: ManagedProcess,
    timeout_s: float,
    reporter: Reporter,
    *,
    log_offset: int,
) -> float:
    """Wait until the front models are ready; return the seconds it took.

    Args:
        plan: The started plan.
        process: Its process.
        timeout_s: How long it may take.
        reporter: Gets the loading progress.
        log_offset: Offset in the log of this start's first line, in bytes.

    Raises:
        ServerError: It ended, or is not ready in time.
    """
    http = TritonHttp(plan.urls.http)
    loading = _Loading(
        plan.log_path, log_offset, process, reporter, in_container=plan.container is not None
    )
    key = KeyInArguments(
        plan.control_key, plan.log_path, log_offset, lambda: container_leader(plan.container)
    )

    def is_ready() -> bool:
        loading.tell()
        key.hide(process.pid)
        return (
            http.is_live()
            and all(map(http.is_model_ready, plan.front_models))
            # Another server on that port could answer instead.
            and (
                is_held_by_group(plan.http_port, process.pid)
                if plan.container is None
                else is_container_running(plan.container)
            )
        )

    started = time.monotonic()
    match process.wait_until(is_ready, timeout_s):
        case "ready":
            seconds = time.monotonic() - started
            key.hide(process.pid, is_ready=True)
            return seconds
        case "ended":
            raise not_started_error(process, len(plan.rank_argvs))
        case "timeout":
            raise not_ready_error(process, timeout_s, plan.command)


class _Loading:
    """Reports once a second the models being loaded, the time and the memory."""

    def __init__(
        self,
        log_path: Path,
        log_offset: int,
        process: ManagedProcess,
        reporter: Reporter,
        *,
        in_container: bool,
    ) -> None:
        self._models = LoadedModels()
        self._log_path = log_path
        self._offset = log_offset
        self._process = process
        self._reporter = reporter
        self._in_container = in_container
        self._started = time.monotonic()
        self._next = self._started + _FIRST_TOLD_S

    def tell(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TELL_EACH_S
        with self._log_path.open("rb") as log:
            log.seek(self._offset)
            whole, _, _ = log.read().rpartition(b"\n")
        self._offset += len(whole) + 1 if whole else 0
        self._models.read(whole.decode(errors="replace").splitlines())
        detail = f"{now - self._started:.0f} s"
        if not self._in_container:  # this user may not read its memory
            detail += f", {show_size(memory_bytes(self._process.pid))} of memory"
        self._reporter.waiting(self._models.text(), detail)
