"""The output of ``forge ps`` and ``forge status``, as text and as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trtllm_forge.errors import ForgeError
from trtllm_forge.machine.process.memory import memory_bytes
from trtllm_forge.serving.records.find import served_fronts
from trtllm_forge.serving.records.record import read_record, record_path
from trtllm_forge.text.quantities import show_duration, show_size
from trtllm_forge.triton.client.http import TritonHttp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.serving.records.record import ServerRecord

DOCUMENT_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """The current state of a server.

    Attributes:
        record: What its owner wrote.
        is_answering: Whether its front models answer that they are ready.
        models: Each model with its state, while it answers.
        fronts: Each front model, with whether it answers that it is ready.
        repository_dirs: Their repositories.
        memory_bytes: Memory its processes hold.
    """

    record: ServerRecord
    is_answering: bool
    models: Mapping[str, str]
    memory_bytes: int
    fronts: Mapping[str, bool] = field(default_factory=dict)
    repository_dirs: tuple[Path, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Return whether it can serve."""
        return self.record.state == "ready" and self.is_answering

    def text(self, now_s: float) -> str:
        """Return it for a terminal."""
        record = self.record
        state = record.state
        if state == "ready" and not self.is_answering:
            state_text = "ready, but does not answer"
        else:
            state_text = {"lost": "lost: its owner was killed, or the machine went down"}.get(
                state, state
            )
        rows = {
            "": f"for {show_duration(max(0.0, now_s - record.since_s))}",
            "http": record.urls.http,
            "grpc": record.urls.grpc or "",
            "metrics": record.urls.metrics or "",
            "fronts": ", ".join(
                f"{name} {'ready' if is_ready else 'not ready'}"
                for name, is_ready in self.fronts.items()
            ),
            "models": ", ".join(f"{name} {how}" for name, how in self.models.items()),
            "memory": show_size(self.memory_bytes) if self.memory_bytes else "",
            "key": _key_file(record),
            "process": _processes(record),
            "restarts": str(record.restarts) if record.restarts else "",
            "serves": ", ".join(map(str, self.repository_dirs)) or str(record.repository_dir),
            "log": str(record.log_path),
        }
        first = f"{record.name} is {state_text} {rows.pop('')}"
        lines = [first, *(f"  {label:<9}{value}" for label, value in rows.items() if value)]
        if record.error is not None:
            lines += _error_lines(record)
        return "\n".join(lines)

    def document(self, now_s: float) -> Mapping[str, object]:
        """Return it for ``--json``."""
        return {
            "schema": DOCUMENT_SCHEMA,
            **server_document(self.record, now_s),
            "is_answering": self.is_answering,
            "repositories": [str(path) for path in self.repository_dirs],
            "front_models": [
                {"name": name, "is_ready": is_ready} for name, is_ready in self.fronts.items()
            ],
            "models": [{"name": name, "state": state} for name, state in self.models.items()],
            "memory_bytes": self.memory_bytes,
        }


def look_at(state_dir: Path, record: ServerRecord) -> ServerStatus:
    """Return the current state of a server, queried from it."""
    models: dict[str, str] = {}
    served = served_fronts(state_dir, record) if record.is_running else {}
    fronts = dict.fromkeys(served, False)
    if record.is_running:
        http = TritonHttp(record.urls.http, control_key=record.urls.control_key, timeout_s=5.0)
        try:
            if http.is_live():
                fronts = {name: http.is_model_ready(name) for name in fronts}
                # Triton lists a replaced version forever.
                models = {name: state for name, _, state in http.models() if state != "UNAVAILABLE"}
        except ForgeError:  # it ended meanwhile
            models = {}
    is_answering = bool(models) and all(fronts.values())
    triton = record.triton
    # Of a container, only the docker client is a process of this user.
    is_seen = triton is not None and triton.is_running() and record.container is None
    size = memory_bytes(triton.pid) if triton is not None and is_seen else 0
    return ServerStatus(
        record=record,
        is_answering=is_answering,
        models=models,
        memory_bytes=size,
        fronts=fronts,
        repository_dirs=tuple(one.repository_dir for one in served.values()),
    )


def servers_text(records: Sequence[ServerRecord]) -> str:
    """Return a table of servers."""
    if not records:
        return "no server is running"
    width = max(4, *(len(record.name) for record in records))
    lines = [f"{'name':<{width}}  {'state':<11}{'for':<7}{'http':<24}serves"]
    now_s = time.time()
    for record in records:
        since = show_duration(max(0.0, now_s - record.since_s))
        lines.append(
            f"{record.name:<{width}}  {record.state:<11}{since:<7}"
            f"{record.urls.http:<24}{record.repository_dir}"
        )
    return "\n".join(lines)


def servers_document(records: Sequence[ServerRecord]) -> Mapping[str, object]:
    """Return the same for ``--json``."""
    now_s = time.time()
    return {
        "schema": DOCUMENT_SCHEMA,
        "servers": [server_document(record, now_s) for record in records],
    }


def log_document(record: ServerRecord, lines: Sequence[str]) -> Mapping[str, object]:
    """Return the end of a server's log for ``--json``."""
    return {
        "schema": DOCUMENT_SCHEMA,
        "name": record.name,
        "state": record.state,
        "log": str(record.log_path),
        "lines": list(lines),
        "error": _error_document(record),
    }


def last_words(state_dir: Path, record: ServerRecord) -> list[str]:
    """Return how a server ended and what to do; empty while it runs."""
    current = read_record(record_path(state_dir, record.name))
    if current is None or current.log_path != record.log_path or current.is_running:
        return []
    lines = [f"{current.name} is {current.state}"]
    return lines if current.error is None else [*lines, *_error_lines(current)]


def server_document(record: ServerRecord, now_s: float) -> Mapping[str, object]:
    """Return a record for display, without the key."""
    return {
        "name": record.name,
        "state": record.state,
        "since_s": round(max(0.0, now_s - record.since_s), 3),
        "is_detached": record.is_detached,
        "owner_pid": record.owner.pid if record.is_running else None,
        "pid": record.triton.pid if record.is_running and record.triton else None,
        "http": record.urls.http,
        "grpc": record.urls.grpc,
        "metrics": record.urls.metrics,
        "key_path": _key_file(record) or None,
        "has_grpc_tls": record.urls.grpc_trust is not None,
        "repository": str(record.repository_dir),
        "log": str(record.log_path),
        "restarts": record.restarts,
        "container": record.container,
        "error": _error_document(record),
    }


def _error_document(record: ServerRecord) -> Mapping[str, str] | None:
    error = record.error
    if error is None:
        return None
    return {"what": error.what, "why": error.why, "hint": error.hint}


def _key_file(record: ServerRecord) -> str:
    """Return the path of a running server's control key."""
    path = record.urls.key_path
    return str(path) if path is not None and record.is_running else ""


def _processes(record: ServerRecord) -> str:
    if not record.is_running:
        return ""
    if record.container is not None:
        return f"forge {record.owner.pid}, container {record.container}"
    triton = f", Triton {record.triton.pid}" if record.triton else ""
    return f"forge {record.owner.pid}{triton}"


def _error_lines(record: ServerRecord) -> list[str]:
    error = record.error
    assert error is not None
    label = "ended" if not record.is_running else "before"
    rows = ((label, error.what), ("why", error.why), ("try", error.hint))
    return [f"  {name:<9}{text}" for name, text in rows if text]
