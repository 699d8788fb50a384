"""A Triton that runs: started as a plan says, waited for until it is ready, stopped."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from trtllm_forge.process import ManagedProcess, environment_without_secrets
from trtllm_forge.serving.launch_plan import DOCUMENT_SCHEMA
from trtllm_forge.serving.ports import is_held_by_group
from trtllm_forge.serving.startup_error import ended_error, not_ready_error, not_started_error
from trtllm_forge.serving.state import (
    ServerRecord,
    ServerUrls,
    record_path,
    start_ticks,
    write_record,
)
from trtllm_forge.triton.client import TritonHttp
from trtllm_forge.triton.mpi import split_rank

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.launch_plan import LaunchPlan

_GRACE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as the server lists it."""

    name: str
    version: str
    state: str


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A Triton that is ready; a context manager that stops it.

    Attributes:
        plan: What was started.
        process: The child itself; it leads the group of all that was started.
        models: What it serves.
        ready_s: Seconds from the start of the process until the front model was ready.
    """

    plan: LaunchPlan
    process: ManagedProcess
    models: tuple[ServedModel, ...]
    ready_s: float

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """Return the name by which other commands find it."""
        return self.plan.name

    @property
    def urls(self) -> ServerUrls:
        """Return where it answers."""
        return self.plan.urls

    @property
    def pid(self) -> int:
        """Return the process that was started, the leader of its group."""
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """Return the file with what it wrote."""
        return self.plan.log_path

    def text(self) -> str:
        """Return what the command line prints once the server is ready."""
        return (
            f"serving {self.name}{self._ranks()}, ready in {self.ready_s:.1f} s\n"
            f"  http     {self.urls.http}\n"
            f"  grpc     {self.urls.grpc}\n"
            f"  metrics  {self.urls.metrics}\n"
            f"  log      {self.log_path}"
        )

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
            "models": [asdict(model) for model in self.models],
            "ready_s": round(self.ready_s, 3),
        }

    def stop(self) -> None:
        """Stop the server and remove what it leaves."""
        self.process.stop()

    def wait(self) -> None:
        """Wait until the server ends, which it does not do by itself.

        Raises:
            ServerError: It ended; names the exit code or the signal.
        """
        self.process.wait()
        ranks = len(self.plan.rank_argvs)
        error = ended_error(self.process, self.name, self.plan.command, ranks)
        self.process.stop()
        raise error


def run_plan(plan: LaunchPlan, ready_timeout_s: float, reporter: Reporter) -> RunningServer:
    """Start what a plan says and return it once its front models are ready.

    Raises:
        ServerError: It ended, or is not ready in time.
    """
    _make_files(plan)
    process = ManagedProcess(
        plan.argv,
        source="triton",
        log_path=plan.log_path,
        reporter=reporter,
        env={**environment_without_secrets(), **plan.env},
        grace_s=_GRACE_S,
        leftovers=plan.leftovers,
        record_path=record_path(plan.state_dir, plan.name),
        shares_cores=plan.shares_cores,
        split_rank=None if plan.launcher is None else partial(split_rank, plan.launcher),
    )
    with ExitStack() as stack:
        stack.enter_context(process)
        ready_s = _wait_until_ready(plan, process, ready_timeout_s)
        models = tuple(
            ServedModel(name=name, version=version, state=state)
            for name, version, state in TritonHttp(plan.urls.http).models()
        )
        _remember(plan, process)
        stack.pop_all()
    return RunningServer(plan=plan, process=process, models=models, ready_s=ready_s)


def _make_files(plan: LaunchPlan) -> None:
    plan.log_path.parent.mkdir(parents=True, exist_ok=True)
    plan.log_path.touch()
    for path, target in plan.links.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    for path, text in plan.texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _wait_until_ready(plan: LaunchPlan, process: ManagedProcess, ready_timeout_s: float) -> float:
    """Return the seconds it took."""
    http = TritonHttp(plan.urls.http)

    def is_ready() -> bool:
        return (
            http.is_live()
            and all(map(http.is_model_ready, plan.front_models))
            # Another server on that port would answer as well.
            and is_held_by_group(plan.http_port, process.pid)
        )

    started = time.monotonic()
    match process.wait_until(is_ready, ready_timeout_s):
        case "ready":
            return time.monotonic() - started
        case "ended":
            raise not_started_error(process, len(plan.rank_argvs))
        case "timeout":
            raise not_ready_error(process, ready_timeout_s, plan.command)


def _remember(plan: LaunchPlan, process: ManagedProcess) -> None:
    ticks = start_ticks(process.pid)
    if ticks is not None:
        record = ServerRecord(
            name=plan.name,
            pid=process.pid,
            started_ticks=ticks,
            urls=plan.urls,
            repository_dir=plan.repository_dir,
            log_path=plan.log_path,
        )
        write_record(plan.state_dir, record)
