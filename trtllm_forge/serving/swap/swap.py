"""Implements ``forge load``, ``unload`` and ``reload`` on a recorded server."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.machine.process.memory import memory_bytes
from trtllm_forge.serving.plan.command import serve_command
from trtllm_forge.serving.plan.launch_plan import completes_config, view_dir
from trtllm_forge.serving.plan.memory import require_memory
from trtllm_forge.serving.plan.repositories import NamedRepository
from trtllm_forge.serving.plan.served_set import changing, read_served_set
from trtllm_forge.serving.plan.trust import require_trusted
from trtllm_forge.serving.records.find import find_server
from trtllm_forge.serving.swap.model_control import ModelControl
from trtllm_forge.text.spelling import nearest
from trtllm_forge.triton.client.http import TritonHttp
from trtllm_forge.triton.repository.served_models import ServedRepository, config_paths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.config.settings import Settings
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.served_set import ServedSet
    from trtllm_forge.serving.plan.trust import Verify
    from trtllm_forge.serving.records.record import ServerRecord
    from trtllm_forge.serving.swap.model_control import ModelChange

DOCUMENT_SCHEMA = 1
LOAD_TIMEOUT_S = 3600.0

Verb = Literal["load", "unload", "reload"]


@dataclass(frozen=True, kw_only=True)
class ChangedServer:
    """A changed server: what the command line prints."""

    verb: Verb
    server: str
    change: ModelChange
    memory_before_bytes: int
    memory_bytes: int

    def text(self) -> str:
        """Return it for a terminal."""
        change = self.change
        name, version = change.repository.name, change.repository.version
        fronts = ", ".join(change.models)
        match self.verb:
            case "load":
                first = f"{self.server} serves {name} as {fronts}, loaded in {change.load_s:.1f} s"
            case "unload":
                first = f"{self.server} no longer serves {name}"
            case "reload":
                first = (
                    f"{self.server} serves version {version} of {name} as {fronts}, "
                    f"loaded in {change.load_s:.1f} s"
                )
        if change.is_drained:
            return first
        if self.verb == "unload":
            return f"{first}\nsome of its requests are still running and will finish"
        left = "requests of the old version still run; the next reload cleans up after them"
        return f"{first}\n{left}"

    def document(self) -> Mapping[str, object]:
        """Return the same for ``--json``."""
        change = self.change
        return {
            "schema": DOCUMENT_SCHEMA,
            "server": self.server,
            "repository": str(change.repository.repository_dir),
            "name": change.repository.name,
            "version": change.repository.version,
            "front_models": list(change.models),
            "load_s": round(change.load_s, 3),
            "drain_s": round(change.drain_s, 3),
            "is_drained": change.is_drained,
            "memory_before_bytes": self.memory_before_bytes,
            "memory_bytes": self.memory_bytes,
        }


def server_to_change(settings: Settings, server: str | None, verb: Verb, name: str) -> ServerRecord:
    """Return the server of that name, or the only one that runs.

    Raises:
        ConfigError: Several run and none was named, or no server has that name.
        ServerError: None runs.
    """
    command = shlex.join(("forge", verb, name, "--server"))
    return find_server(settings.state_dir, server, command=command)


def load_repository(
    record: ServerRecord,
    name: str,
    repository_dir: Path,
    settings: Settings,
    reporter: Reporter,
    *,
    verify: Verify,
) -> ChangedServer:
    """Load one more repository into a server.

    Raises:
        ConfigError: The server already has one of that name.
        CheckpointError: It is not what its manifest says.
        PrerequisiteError: This machine cannot run it, or has too little memory.
        ServerError: It does not load.
    """
    served = _served_set(record, settings)
    with changing(served.view_dir, record.name):
        served = _served_set(record, settings)
        if (other := served.find(name)) is not None:
            what = f"{record.name} already serves {name}"
            why = f"from {other.repository_dir}"
            raise ConfigError(
                what, why=why, hint=shlex.join(("forge", "reload", name, "--server", record.name))
            )
        prefix = "" if not served.repositories else f"{name}."
        repository = ServedRepository(name=name, repository_dir=repository_dir, prefix=prefix)
        _require_loadable(record, served, repository, settings, reporter, verify, "load")
        before = _held_bytes(record)
        change = _control(record, served, reporter).load(repository)
    return _changed("load", record, change, before)


def unload_repository(
    record: ServerRecord,
    name: str,
    settings: Settings,
    reporter: Reporter,
    *,
    timeout_s: float | None,
) -> ChangedServer:
    """Take a repository out of a server, once its requests have ended.

    Raises:
        ConfigError: The server has none of that name.
    """
    served = _served_set(record, settings)
    with changing(served.view_dir, record.name):
        served = _served_set(record, settings)
        repository = _named(served, name, record, "unload")
        before = _held_bytes(record)
        change = _control(record, served, reporter).unload(
            repository, record.drain_timeout_s if timeout_s is None else timeout_s
        )
    return _changed("unload", record, change, before)


def reload_repository(
    record: ServerRecord,
    name: str,
    settings: Settings,
    reporter: Reporter,
    *,
    verify: Verify,
    timeout_s: float | None,
) -> ChangedServer:
    """Replace a served repository by the current content of its folder.

    Raises:
        ConfigError: The server has none of that name.
        CheckpointError: It is not what its manifest says.
        PrerequisiteError: This machine cannot run it, or has too little memory.
        ServerError: It does not load; the old version is still served.
    """
    served = _served_set(record, settings)
    with changing(served.view_dir, record.name):
        served = _served_set(record, settings)
        repository = _named(served, name, record, "reload")
        _require_loadable(record, served, repository, settings, reporter, verify, "reload")
        before = _held_bytes(record)
        change = _control(record, served, reporter).reload(
            repository, record.drain_timeout_s if timeout_s is None else timeout_s
        )
    return _changed("reload", record, change, before)


def _served_set(record: ServerRecord, settings: Settings) -> ServedSet:
    """Return a server's repositories, if they can be changed.

    Raises:
        ServerError: It is not ready, or was started in a way that cannot be changed.
    """
    if record.state != "ready":
        what = f"the server {record.name} is {record.state}"
        hint = f"forge status {shlex.quote(record.name)}"
        raise ServerError(what, hint=hint, log_path=record.log_path)
    served = read_served_set(view_dir(settings.state_dir, record.stamp))
    again = _serve_command(record.repository_dir, settings)
    what = f"the models of {record.name} cannot be changed while it runs"
    hint = f"forge stop {shlex.quote(record.name)} && {again}"
    if served is None:
        why = "only a server of one rank, with its Triton outside a container, can be changed"
        raise ServerError(what, why=why, hint=hint)
    return served


def _named(served: ServedSet, name: str, record: ServerRecord, verb: Verb) -> ServedRepository:
    found = served.find(name)
    if found is not None:
        return found
    names = [one.name for one in served.repositories]
    near = nearest(name, names) or next(iter(names), None)
    words = (verb, near, "--server", record.name) if near else ("load", name)
    hint = shlex.join(("forge", *words))
    what = f"{record.name} serves no repository {name}"
    raise ConfigError(what, why=f"it serves {', '.join(names) or 'none'}", hint=hint)


def _require_loadable(
    record: ServerRecord,
    served: ServedSet,
    repository: ServedRepository,
    settings: Settings,
    reporter: Reporter,
    verify: Verify,
    verb: Verb,
) -> None:
    folder = repository.repository_dir
    if not config_paths(folder):
        what = f"{folder} is not a model repository"
        raise ConfigError(what, why="it holds no model: it has no */config.pbtxt")
    if completes_config(folder) and not served.completes_config:
        what = f"{repository.name} cannot be loaded into {record.name}"
        why = "its model completes its own configuration, which is set when a server starts"
        raise ServerError(what, why=why, hint=_serve_command(folder, settings))
    command = f"forge {verb} {shlex.quote(repository.name)}"
    require_trusted(
        folder, verify, cache_dir=settings.cache_dir, reporter=reporter, command=command
    )
    again = _serve_command(record.repository_dir, settings)
    require_memory(
        folder,
        what=f"another engine, from {folder},",
        held_bytes=_held_bytes(record),
        hint=f"forge stop {shlex.quote(record.name)} && {again}",
    )


def _serve_command(folder: Path, settings: Settings) -> str:
    alone = NamedRepository(name=folder.name, folder=folder)
    return serve_command((alone,), settings.model_repos_dir)


def _control(record: ServerRecord, served: ServedSet, reporter: Reporter) -> ModelControl:
    http = TritonHttp(
        record.urls.http, control_key=record.urls.control_key, timeout_s=LOAD_TIMEOUT_S
    )
    return ModelControl(http, served, record.log_path, reporter)


def _held_bytes(record: ServerRecord) -> int:
    return memory_bytes(record.triton.pid) if record.triton else 0


def _changed(
    verb: Verb, record: ServerRecord, change: ModelChange, before_bytes: int
) -> ChangedServer:
    return ChangedServer(
        verb=verb,
        server=record.name,
        change=change,
        memory_before_bytes=before_bytes,
        memory_bytes=_held_bytes(record),
    )
