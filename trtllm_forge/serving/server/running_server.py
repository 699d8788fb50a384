"""A running Triton: started from a plan, watched, restarted, drained and stopped."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from trtllm_forge.errors import ForgeError, ServerError
from trtllm_forge.serving.plan.launch_plan import DOCUMENT_SCHEMA, view_dir
from trtllm_forge.serving.plan.served_set import read_served_set
from trtllm_forge.serving.records.record import (
    RecordedError,
    ServerRecord,
    own_process_id,
    process_id,
    read_record,
    record_path,
    remove_record,
    write_record,
)
from trtllm_forge.serving.server.plan_process import make_files, managed_process
from trtllm_forge.serving.server.restart import STEADY_S, restart_delay_s

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from trtllm_forge.machine.process.managed import ManagedProcess
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.launch_plan import LaunchPlan
    from trtllm_forge.serving.records.record import ServerState
    from trtllm_forge.serving.server.container_watch import ContainerWatch
    from trtllm_forge.serving.server.stub_watch import StubWatch
    from trtllm_forge.triton.client.address import ServerUrls
    from trtllm_forge.triton.client.http import TritonHttp

# The time to exit once the requests have ended and the models are unloaded.
_EXIT_S = 3.0
_LOOK_EACH_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as the server lists it."""

    name: str
    version: str
    state: str


class RunningServer:
    """A server that is ready; a context manager that stops it.

    Args:
        plan: The plan to start.
        reporter: Gets progress and restarts.

    Attributes:
        plan: The started plan.
        process: Triton itself; it leads the group of everything started.
        models: The served models.
        ready_s: Seconds from the start of the process until the front model was ready.
    """

    def __init__(self, plan: LaunchPlan, reporter: Reporter) -> None:
        self.plan = plan
        self.process = managed_process(plan, reporter)
        self.models: tuple[ServedModel, ...] = ()
        self.ready_s = 0.0
        self._reporter = reporter
        self._record = planned_record(plan)
        self._stubs: StubWatch | ContainerWatch | None = None
        self._ready_offset = 0
        self._restarts = 0
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(error if isinstance(error, ForgeError) else None)

    @property
    def name(self) -> str:
        """Return the name by which other commands find it."""
        return self.plan.name

    @property
    def urls(self) -> ServerUrls:
        """Return its addresses."""
        return self.plan.urls

    @property
    def pid(self) -> int:
        """Return the id of the started process, which leads its group."""
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """Return the path of its log."""
        return self.plan.log_path

    def text(self) -> str:
        """Return the text that the command line prints once the server is ready."""
        container = self._record.container
        return (
            f"serving {self.name}{self._ranks()}, ready in {self.ready_s:.1f} s\n"
            f"{self._fronts()}"
            f"  http     {self.urls.http}\n"
            f"  grpc     {self.urls.grpc}\n"
            f"  metrics  {self.urls.metrics}\n"
            + (f"  docker   {container}\n" if container else "")
            + f"  log      {self.log_path}"
        )

    def _fronts(self) -> str:
        fronts = self.plan.front_models
        return f"  models   {', '.join(fronts)}\n" if len(fronts) > 1 else ""

    def _ranks(self) -> str:
        ranks = len(self.plan.rank_argvs)
        return f" with {ranks} ranks" if ranks > 1 else ""

    def document(self) -> dict[str, object]:
        """Return the same for ``--json``."""
        return {
            "schema": DOCUMENT_SCHEMA,
            "name": self.name,
            "repository": str(self.plan.repository_dir),
            "pid": self.pid,
            "http": self.urls.http,
            "grpc": self.urls.grpc,
            "metrics": self.urls.metrics,
            "world_size": len(self.plan.rank_argvs),
            "log": str(self.log_path),
            "container": self._record.container,
            "front_models": list(self.plan.front_models),
            "models": [asdict(model) for model in self.models],
            "ready_s": round(self.ready_s, 3),
        }

    def start(self) -> None:
        """Start it and wait until its front models are ready.

        Raises:
            ServerError: It ended, or is not ready in time; nothing of it is left.
        """
        plan = self.plan
        with ExitStack() as stack:
            stack.callback(self.process.stop)
            make_files(plan)
            log_offset = plan.log_path.stat().st_size
            self.process.__enter__()
            self._record = replace(self._record, triton=process_id(self.pid))
            self._write(self._record.written_state)
            # Imported while Triton starts, like all modules that watch it: this takes 30 ms.
            from trtllm_forge.serving.server.readiness import wait_until_ready

            with _real_paths(plan):
                self.ready_s = wait_until_ready(
                    plan, self.process, plan.ready_timeout_s, self._reporter, log_offset=log_offset
                )
            self.models = self._served_models()
            self._stubs = self._stub_watch()
            self._stubs.look()
            self._ready_offset = plan.log_path.stat().st_size
            self._write("ready")
            stack.pop_all()

    def wait(self, *, max_restarts: int = 0) -> None:
        """Watch the server, and restart it when it ends, as often as allowed.

        Args:
            max_restarts: Restarts before giving up; the count resets after ``STEADY_S`` of being
                ready.

        Raises:
            ServerError: It or one of its processes ended, and it is not restarted.
        """
        while True:
            ready_at = time.monotonic()
            error = self._watch()
            if time.monotonic() - ready_at > STEADY_S:
                self._restarts = 0
            if not max_restarts or _was_asked_to_end(self.process):
                raise error
            self._start_again(error, max_restarts)

    def stop(self, error: ForgeError | None = None) -> None:
        """Let running requests end, stop the server and remove its leftovers.

        An exception during the wait, such as a second Ctrl-C, kills it at once.

        Args:
            error: Why it is stopped; kept in its record if that outlives it.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        grace_s = 0.0
        try:
            if self.process.is_running and self._record.written_state == "ready":
                self._write("stopping")
                grace_s = self._drained_grace_s()
        finally:
            self.process.stop(grace_s)
            self.forget(error)

    def forget(self, error: ForgeError | None = None) -> None:
        """Remove its record, or record how it ended if it is detached."""
        if self.plan.is_detached:
            self._record = replace(self._record, triton=None, error=_recorded(error))
            self._write("failed" if error else "stopped")
        else:
            remove_record(self.plan.state_dir, self._record)

    def _stub_watch(self) -> StubWatch | ContainerWatch:
        if self.plan.container is None:
            from trtllm_forge.serving.server.stub_watch import StubWatch

            return StubWatch(self.pid)
        from trtllm_forge.serving.server.container_watch import ContainerWatch

        return ContainerWatch(self.plan.container)

    def _served_models(self) -> tuple[ServedModel, ...]:
        try:
            models = self._http().models()
        except ServerError:
            if self.process.wait_ended(_LOOK_EACH_S):
                from trtllm_forge.serving.server.startup_error import not_started_error

                raise not_started_error(self.process, len(self.plan.rank_argvs)) from None
            raise
        return tuple(
            ServedModel(name=name, version=version, state=state) for name, version, state in models
        )

    def _drained_grace_s(self) -> float:
        """Let running requests end; return how long Triton may take after that."""
        from trtllm_forge.serving.server.drain import drain

        timeout_s = self.plan.drain_timeout_s
        waiting = (
            f"waiting for the running requests of {self.name}, at most {timeout_s:g} s; "
            "a second signal ends them now"
        )
        started = time.monotonic()
        if drain(self._http(), timeout_s, lambda: self._reporter.note(waiting)):
            return _EXIT_S
        left_s = timeout_s - (time.monotonic() - started)
        if left_s <= 0:
            self._reporter.warning(f"requests still running after {timeout_s:g} s are cut off")
            return 0.0
        return max(left_s, _EXIT_S)

    def _watch(self) -> ServerError:
        """Wait until the server ends; return why."""
        from trtllm_forge.serving.server.startup_error import dead_stub_error, ended_error

        while not self.process.wait_ended(_LOOK_EACH_S):
            if self._stubs is not None and (dead := self._stubs.look()):
                return dead_stub_error(
                    self.process, self._ready_offset, dead, self.name, self.plan.command
                )
        return ended_error(
            self.process,
            self._ready_offset,
            self.name,
            self.plan.command,
            len(self.plan.rank_argvs),
            container=self._record.container,
        )

    def _start_again(self, failed: ServerError, max_restarts: int) -> None:
        """Restart it until it is ready, after a delay that grows each time.

        Raises:
            ServerError: No restarts are left.
        """
        error = failed
        while True:
            self.process.stop(0)
            if self._restarts >= max_restarts:
                raise _given_up(error, max_restarts)
            delay_s = restart_delay_s(self._restarts)
            self._restarts += 1
            self._tell_restart(error, delay_s, max_restarts)
            time.sleep(delay_s)
            self.process = managed_process(self.plan, self._reporter)
            try:
                self.start()
            except ServerError as again:
                error = again
            else:
                self._reporter.note(f"{self.name} is ready again after {self.ready_s:.1f} s")
                return

    def _tell_restart(self, error: ServerError, delay_s: float, max_restarts: int) -> None:
        self._record = replace(
            self._record,
            triton=None,
            restarts=self._record.restarts + 1,
            error=_recorded(error),
        )
        self._write("restarting")
        because = f" ({error.why})" if error.why else ""
        self._reporter.warning(
            f"{error.what}{because}; restarting in {delay_s:g} s, "
            f"restart {self._restarts} of {max_restarts}"
        )

    def _http(self) -> TritonHttp:
        from trtllm_forge.triton.client.http import TritonHttp

        return TritonHttp(self.urls.http, control_key=self.plan.control_key)

    def _write(self, state: ServerState) -> None:
        self._record = replace(self._record, written_state=state, since_s=time.time())
        found = read_record(record_path(self.plan.state_dir, self.name))
        if found is None or found.stamp == self.plan.stamp or not found.is_running:
            write_record(self.plan.state_dir, self._record)


def run_plan(plan: LaunchPlan, reporter: Reporter) -> RunningServer:
    """Start a plan and return the server once its front models are ready.

    Raises:
        ServerError: It ended, or is not ready in time.
    """
    server = RunningServer(plan, reporter)
    try:
        server.start()
    except BaseException as error:
        server.forget(error if isinstance(error, ForgeError) else None)
        raise
    return server


def _recorded(error: ForgeError | None) -> RecordedError | None:
    if error is None:
        return None
    return RecordedError(what=error.what, why=error.why, hint=error.hint)


def planned_record(plan: LaunchPlan) -> ServerRecord:
    """Return the record of a server this process is about to start."""
    return ServerRecord(
        name=plan.name,
        written_state="starting",
        owner=own_process_id(),
        triton=None,
        stamp=plan.stamp,
        urls=plan.urls,
        repository_dir=plan.repository_dir,
        log_path=plan.log_path,
        since_s=time.time(),
        is_detached=plan.is_detached,
        drain_timeout_s=plan.drain_timeout_s,
        container=None if plan.container is None else plan.container.name,
    )


def _was_asked_to_end(process: ManagedProcess) -> bool:
    # On TERM and INT Triton exits by itself, with 0.
    return process.ending() in ("exit code 0", "signal SIGTERM", "signal SIGINT")


def _given_up(error: ServerError, restarts: int) -> ServerError:
    why = f"no restarts left (--max-restarts {restarts})"
    return ServerError(
        error.what,
        why="; ".join(filter(None, (error.why, why))),
        hint=error.hint,
        log_path=error.log_path,
    )


@contextmanager
def _real_paths(plan: LaunchPlan) -> Iterator[None]:
    """Make errors name files by their paths in the repository."""
    try:
        yield
    except ServerError as error:
        served = read_served_set(view_dir(plan.state_dir, plan.stamp))
        if served is not None:
            error.what, error.why = served.real_paths(error.what), served.real_paths(error.why)
        raise
