"""Finds servers by name or address; keeps two from taking the same name or port.

Each server has a record; the folder of the records has one lock, held only while a name and
ports are chosen.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.files.lock import exclusive
from trtllm_forge.files.private import make_private
from trtllm_forge.serving.plan.launch_plan import view_dir
from trtllm_forge.serving.plan.served_set import read_served_set
from trtllm_forge.serving.plan.view import front_model
from trtllm_forge.serving.records.record import ServerRecord, all_records
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.client.address import ServerAddress, ServerUrls
from trtllm_forge.triton.repository.names import FRONT_MODEL
from trtllm_forge.triton.repository.served_models import ServedRepository

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from trtllm_forge.reporter import Reporter

LOCK_NAME = ".lock"


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Let one process at a time choose the name and the ports of a server."""
    path = state_dir / "servers" / LOCK_NAME
    make_private(path.parent)
    with exclusive(path):
        yield


def running_servers(state_dir: Path) -> tuple[ServerRecord, ...]:
    """Return the servers with a living owner, ready or not, by name."""
    return tuple(record for record in all_records(state_dir) if record.is_running)


def free_server_name(state_dir: Path, repository_name: str) -> str:
    """Return the repository's name, with a number appended if another server has it."""
    taken = {record.name for record in running_servers(state_dir)}
    name, number = repository_name, 2
    while name in taken:
        name, number = f"{repository_name}-{number}", number + 1
    return name


def find_server(
    state_dir: Path, name: str | None, *, command: str, with_ended: bool = False
) -> ServerRecord:
    """Return the server of a name, or the only one.

    Args:
        state_dir: Folder of the records.
        name: The name, or None.
        command: The command before the name, for hints.
        with_ended: Whether a named server may have ended.

    Raises:
        ConfigError: Several run and none was named, or no server has that name.
        ServerError: None runs.
    """
    records = all_records(state_dir)
    running = [record for record in records if record.is_running]
    if not running and not (name and with_ended):
        what = "no server is running"
        raise ServerError(what, hint="forge serve")
    if name is not None:
        eligible = records if with_ended else running
        names = [record.name for record in eligible]
        if name in names:
            return eligible[names.index(name)]
        what = f"no server named {name} is {'known' if with_ended else 'running'}"
        near = nearest(name, names) or next(iter(names), None)
        hint = f"{command} {near}" if near else "forge ps --all"
        raise ConfigError(what, why=_listing(eligible), hint=hint)
    if len(running) > 1:
        what = f"{len(running)} servers are running; name one"
        raise ConfigError(what, why=_listing(running), hint=f"{command} {running[0].name}")
    return running[0]


def find_running_server(
    state_dir: Path,
    reporter: Reporter,
    *,
    command: str,
    name: str | None = None,
    http: str | None = None,
    model: str | None = None,
) -> ServerAddress:
    """Return the server to talk to: the one at ``http``, the one named, or the only one.

    An address without a record is used as given. ``command`` is the typed command, for hints;
    ``model`` is the front model to ask or its repository, None for the only one.

    Raises:
        ConfigError: Several servers run and none was named, or no server has that name; or
            likewise for its models.
        ServerError: None runs, or the one that does is not ready.
    """
    if http is not None:
        url = http.rstrip("/") if "://" in http else f"http://{http.rstrip('/')}"
        url = url.replace("://localhost", "://127.0.0.1")
        servers = running_servers(state_dir)
        known = next((server for server in servers if server.urls.http == url), None)
        if known is None:
            return ServerAddress(urls=ServerUrls(http=url), front=model or FRONT_MODEL)
        return _address(state_dir, known, model, command)
    server = find_server(state_dir, name, command=f"{command} --server")
    if server.state != "ready":
        what = f"the server {server.name} is {server.state}"
        raise ServerError(what, hint=f"forge status {server.name}", log_path=server.log_path)
    if name is None:
        reporter.note(f"using the running server {server.name} at {server.urls.http}")
    return _address(state_dir, server, model, command)


def served_fronts(state_dir: Path, record: ServerRecord) -> Mapping[str, ServedRepository]:
    """Return each repository's front model, by its served name."""
    served = read_served_set(view_dir(state_dir, record.stamp))
    folder = record.repository_dir
    only = ServedRepository(name=folder.name, repository_dir=folder)
    repositories = (only,) if served is None else served.repositories
    return {
        one.served_name(front_model(one.repository_dir)): one
        for one in repositories
        if any(one.repository_dir.glob("*/config.pbtxt"))
    }


def _address(
    state_dir: Path, record: ServerRecord, model: str | None, command: str
) -> ServerAddress:
    fronts = served_fronts(state_dir, record)
    for front, repository in fronts.items():
        is_other = model is not None and model.startswith(repository.prefix)
        if model in (front, repository.name) or (model is None and len(fronts) == 1):
            return _front_address(record, front, repository)
        if model is not None and is_other and (len(fronts) == 1 or repository.prefix):
            return _front_address(record, model, repository)
    if model is None and not fronts:
        return ServerAddress(urls=record.urls, repository_dir=record.repository_dir)
    names = list(fronts)
    hint = f"{command} --model {names[0]}" if names else "forge ps"
    if model is None:
        what = f"{record.name} serves {len(fronts)} repositories; name one"
        raise ConfigError(what, why=f"their front models are {', '.join(names)}", hint=hint)
    what = f"{record.name} serves no model {model}"
    raise ConfigError(what, why=f"its front models are {', '.join(names) or 'none'}", hint=hint)


def _front_address(record: ServerRecord, front: str, repository: ServedRepository) -> ServerAddress:
    return ServerAddress(urls=record.urls, repository_dir=repository.repository_dir, front=front)


def _listing(servers: Iterable[ServerRecord]) -> str:
    return ", ".join(f"{server.name} at {server.urls.http}" for server in servers)
