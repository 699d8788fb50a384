"""The record of a server: one JSON file per name, ``<state>/servers/<name>.json``.

::

    {"schema": 3, "name": "sample", "state": "ready", "boot_id": "5a1c...",
     "owner_pid": 4700, "owner_ticks": 123400, "pid": 4711, "started_ticks": 123456,
     "stamp": "4700_1700000000000000000", "is_detached": true, "since_s": 1700000000.5,
     "http": "http://127.0.0.1:8000", "grpc": "127.0.0.1:8001",
     "metrics": "http://127.0.0.1:8002/metrics", "key": "<state>/keys/<stamp>.key",
     "grpc_trust": {"certificate": "-----BEGIN ...", "name": "triton.example", ...} or null,
     "repository": "/srv/model_repos/sample", "log": "...", "drain_timeout_s": 30.0,
     "restarts": 0, "container": null, "error": null}

The owner is the forge process that started Triton and stops it, and the only writer of the file.
Process ids are reused, so each is stored with its start time in kernel ticks and with the boot
id: this tells a live record from one that a killed forge or a crashed machine left.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict, dataclass
from os import getpid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.files.private import write_private
from trtllm_forge.machine.process.lifeline import START_TIME_FIELD, stat_fields
from trtllm_forge.triton.client.address import ServerUrls
from trtllm_forge.triton.client.tls import GrpcTrust

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_SCHEMA = 3
_PORT = re.compile(r":(?P<port>\d+)(?:/\w*)?$")
_BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")

ServerState = Literal["starting", "ready", "restarting", "stopping", "stopped", "failed", "lost"]
"""``lost``: the owner was killed, or the machine went down, before it could record the end."""

_ENDED: frozenset[ServerState] = frozenset({"stopped", "failed", "lost"})


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """A process identified by its id and start time, so that a reused id is noticed."""

    pid: int
    started_ticks: int
    boot_id: str

    def is_running(self) -> bool:
        """Return whether that same process still runs."""
        return start_ticks(self.pid) == self.started_ticks and self.boot_id == boot_id()


@dataclass(frozen=True, kw_only=True)
class RecordedError:
    """The last error of a server, as it was printed."""

    what: str
    why: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class ServerRecord:
    """One server.

    Attributes:
        name: The name by which commands find it.
        written_state: The state its owner wrote last; ``state`` is the actual one.
        owner: The forge process that owns it.
        triton: The process it started, which leads a process group; None between two starts.
        stamp: The unique word in the names of its shared memory files.
        is_detached: Whether the owner runs in the background, without a terminal.
        since_s: When it entered this state, in seconds since 1970.
        urls: Its addresses.
        repository_dir: The repository it serves.
        log_path: Its log.
        drain_timeout_s: How long it lets running requests end when it is stopped.
        restarts: Number of restarts.
        error: Why it ended or was last restarted.
        container: The name of its container, if it runs in one.
    """

    name: str
    written_state: ServerState
    owner: ProcessId
    triton: ProcessId | None
    stamp: str
    urls: ServerUrls
    repository_dir: Path
    log_path: Path
    since_s: float
    is_detached: bool = False
    drain_timeout_s: float = 0.0
    restarts: int = 0
    error: RecordedError | None = None
    container: str | None = None

    @property
    def state(self) -> ServerState:
        """Return the actual state, which a dead owner could not write."""
        if self.written_state in _ENDED or self.owner.is_running():
            return self.written_state
        return "lost"

    def ports(self) -> Mapping[str, int]:
        """Return its ports, by the name of the service."""
        addresses = {"http": self.urls.http, "grpc": self.urls.grpc, "metrics": self.urls.metrics}
        found = {name: _PORT.search(address or "") for name, address in addresses.items()}
        return {name: int(match["port"]) for name, match in found.items() if match}

    @property
    def is_running(self) -> bool:
        """Return whether it has a living owner and has not ended."""
        return self.state not in _ENDED


def boot_id() -> str:
    """Return the id of this boot; empty if the system has none."""
    try:
        return _BOOT_ID_PATH.read_text().strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks, or None when it is gone."""
    fields = stat_fields(pid)
    if not fields or fields[0] in "ZX":
        return None
    return int(fields[START_TIME_FIELD])


def process_id(pid: int) -> ProcessId | None:
    """Return the identity of a running process, or None."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessId(pid=pid, started_ticks=ticks, boot_id=boot_id())


def own_process_id() -> ProcessId:
    """Return the identity of this process."""
    own = process_id(getpid())
    assert own is not None  # this process is running
    return own


def record_path(state_dir: Path, name: str) -> Path:
    """Return the path of a server's record."""
    return state_dir / "servers" / f"{name}.json"


def write_record(state_dir: Path, record: ServerRecord) -> None:
    """Write a server's record atomically, readable only by its user."""
    text = json.dumps(_document(record), indent=2, sort_keys=True) + "\n"
    write_private(record_path(state_dir, record.name), text)


def remove_record(state_dir: Path, record: ServerRecord) -> None:
    """Remove a server's record, unless another owner has it now."""
    path = record_path(state_dir, record.name)
    found = read_record(path)
    if found is not None and found.owner == record.owner and found.stamp == record.stamp:
        with contextlib.suppress(OSError):
            path.unlink()


def all_records(state_dir: Path) -> tuple[ServerRecord, ...]:
    """Return every readable record, by name."""
    folder = state_dir / "servers"
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return tuple(filter(None, map(read_record, paths)))


def read_record(path: Path) -> ServerRecord | None:
    """Return a record, or None for a missing or damaged file or another schema."""
    try:
        document = json.loads(path.read_text())
        return _record(document) if document["schema"] == STATE_SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _document(record: ServerRecord) -> Mapping[str, object]:
    error = record.error
    return {
        "schema": STATE_SCHEMA,
        "name": record.name,
        "state": record.written_state,
        "boot_id": record.owner.boot_id,
        "owner_pid": record.owner.pid,
        "owner_ticks": record.owner.started_ticks,
        "pid": record.triton.pid if record.triton else None,
        "started_ticks": record.triton.started_ticks if record.triton else None,
        "stamp": record.stamp,
        "is_detached": record.is_detached,
        "since_s": record.since_s,
        "http": record.urls.http,
        "grpc": record.urls.grpc,
        "metrics": record.urls.metrics,
        "key": str(record.urls.key_path) if record.urls.key_path else None,
        "grpc_trust": asdict(record.urls.grpc_trust) if record.urls.grpc_trust else None,
        "repository": str(record.repository_dir),
        "log": str(record.log_path),
        "drain_timeout_s": record.drain_timeout_s,
        "restarts": record.restarts,
        "container": record.container,
        "error": None
        if error is None
        else {"what": error.what, "why": error.why, "hint": error.hint},
    }


def _record(document: Mapping[str, Any]) -> ServerRecord:
    boot, pid, error = document["boot_id"], document["pid"], document["error"]
    ticks, key, trust = document["started_ticks"], document["key"], document["grpc_trust"]
    return ServerRecord(
        name=document["name"],
        written_state=document["state"],
        owner=ProcessId(
            pid=int(document["owner_pid"]),
            started_ticks=int(document["owner_ticks"]),
            boot_id=boot,
        ),
        triton=None
        if pid is None
        else ProcessId(pid=int(pid), started_ticks=int(ticks), boot_id=boot),
        stamp=document["stamp"],
        is_detached=bool(document["is_detached"]),
        since_s=float(document["since_s"]),
        urls=ServerUrls(
            http=document["http"],
            grpc=document["grpc"],
            metrics=document["metrics"],
            key_path=None if key is None else Path(key),
            grpc_trust=None if trust is None else GrpcTrust(**trust),
        ),
        repository_dir=Path(document["repository"]),
        log_path=Path(document["log"]),
        drain_timeout_s=float(document["drain_timeout_s"]),
        restarts=int(document["restarts"]),
        error=None if error is None else RecordedError(**error),
        container=document.get("container"),
    )
