"""Remembers which servers run, so that ``probe`` and ``complete`` find them without a URL.

One file per server, ``<state>/servers/<name>.json``::

    {"schema": 1, "name": "sample", "pid": 4711, "started_ticks": 123456,
     "http": "http://127.0.0.1:8000", "grpc": "127.0.0.1:8001",
     "metrics": "http://127.0.0.1:8002/metrics",
     "repository": "/srv/model_repos/sample", "log": "..."}

``started_ticks`` is the start time of the process as the kernel counts it: with it, a file left
behind by a killed forge is told from one of a later process with the same id.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.lifeline import START_TIME_FIELD, stat_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.reporter import Reporter

STATE_SCHEMA = 1
LOCK_NAME = ".lock"


@dataclass(frozen=True, kw_only=True)
class ServerUrls:
    """Where a server answers; ``grpc`` and ``metrics`` may be unknown."""

    http: str
    grpc: str | None = None
    metrics: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServerRecord:
    """One running server: its Triton's process, its addresses and what it serves."""

    name: str
    pid: int
    started_ticks: int
    urls: ServerUrls
    repository_dir: Path
    log_path: Path


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """A server to talk to; one given by its URL alone has no known repository."""

    urls: ServerUrls
    repository_dir: Path | None = None


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in the kernel's ticks, or None when it is gone."""
    fields = stat_fields(pid)
    if not fields or fields[0] in "ZX":
        return None
    return int(fields[START_TIME_FIELD])


def record_path(state_dir: Path, name: str) -> Path:
    """Return where the record of a server is."""
    return state_dir / "servers" / f"{name}.json"


@contextmanager
def start_lock(state_dir: Path, reporter: Reporter) -> Iterator[None]:
    """Let one server start at a time: Triton takes its ports only after it has loaded.

    Until then neither they nor the server's name look taken to another forge.
    """
    path = state_dir / "servers" / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.note("waiting for another server to start")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_server_name(state_dir: Path, repository_name: str) -> str:
    """Return the repository's name, with a number behind it while another server has it."""
    taken = {record.name for record in running_servers(state_dir)}
    name, number = repository_name, 2
    while name in taken:
        name, number = f"{repository_name}-{number}", number + 1
    return name


def write_record(state_dir: Path, record: ServerRecord) -> None:
    """Write a server's record, by one rename."""
    path = record_path(state_dir, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": STATE_SCHEMA,
        "name": record.name,
        "pid": record.pid,
        "started_ticks": record.started_ticks,
        "http": record.urls.http,
        "grpc": record.urls.grpc,
        "metrics": record.urls.metrics,
        "repository": str(record.repository_dir),
        "log": str(record.log_path),
    }
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    scratch.rename(path)


def running_servers(state_dir: Path) -> tuple[ServerRecord, ...]:
    """Return the records whose process still runs, by name."""
    folder = state_dir / "servers"
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    records = filter(None, map(_read_record, paths))
    return tuple(r for r in records if start_ticks(r.pid) == r.started_ticks)


def find_running_server(
    state_dir: Path,
    reporter: Reporter,
    *,
    command: str,
    name: str | None = None,
    http: str | None = None,
) -> ServerAddress:
    """Return the server to talk to: the one at ``http``, the one named, or the only one.

    An address that no record knows is taken as it is. ``command`` is what was typed, for hints.

    Raises:
        ConfigError: Several run and none was named, or none of them has that name.
        ServerError: None runs.
    """
    servers = running_servers(state_dir)
    if http is not None:
        url = http.rstrip("/") if "://" in http else f"http://{http.rstrip('/')}"
        url = url.replace("://localhost", "://127.0.0.1")
        known = next((server for server in servers if server.urls.http == url), None)
        return _address(known) if known else ServerAddress(urls=ServerUrls(http=url))
    if not servers:
        what = "no server is running"
        raise ServerError(what, hint="forge serve")
    names = [server.name for server in servers]
    if name is not None:
        if name in names:
            return _address(servers[names.index(name)])
        what = f"no server named {name} is running"
        near = get_close_matches(name, names, n=1) or names[:1]
        raise ConfigError(what, why=_listing(servers), hint=f"{command} --server {near[0]}")
    if len(servers) > 1:
        what = f"{len(servers)} servers are running, and none was named"
        raise ConfigError(what, why=_listing(servers), hint=f"{command} --server {names[0]}")
    reporter.note(f"using the running server {names[0]} at {servers[0].urls.http}")
    return _address(servers[0])


def _address(record: ServerRecord) -> ServerAddress:
    return ServerAddress(urls=record.urls, repository_dir=record.repository_dir)


def _listing(servers: Iterable[ServerRecord]) -> str:
    return ", ".join(f"{server.name} at {server.urls.http}" for server in servers)


def _read_record(path: Path) -> ServerRecord | None:
    """Return a record, or None for a file that is damaged, newer, or gone by now."""
    try:
        document = json.loads(path.read_text())
        if document["schema"] != STATE_SCHEMA:
            return None
        return ServerRecord(
            name=document["name"],
            pid=int(document["pid"]),
            started_ticks=int(document["started_ticks"]),
            urls=ServerUrls(
                http=document["http"], grpc=document["grpc"], metrics=document["metrics"]
            ),
            repository_dir=Path(document["repository"]),
            log_path=Path(document["log"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
