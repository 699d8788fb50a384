r"""Starts a server whose owner is a process of its own: ``forge serve --detach``.

The owner is ``cli.supervisor``, in a session of its own and not a child of the starter. It writes
its process id, reads one request from stdin, and writes the reporter's messages to stdout, one
JSON object per line, until the server is ready or has failed::

    stdout  {"pid": 4711}
    stdin   {"options": {"repositories": [{"name": "sample", "folder": "/srv/..."}], ...},
             "settings": {"cache_dir": "...", "state_dir": "...", "model_repos_dir": "..."}}
            {"report": "note", "words": ["port 8000 is taken, HTTP is on 41000"]}
            {"ready": "serving sample, ready in 0.4 s\\n...", "document": {...}}
            {"error": {"what": "...", "why": "...", "hint": "...", "log": null, "exit_code": 7}}

After the last of these it writes to the server's log.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.config.schema import ServeSection
from trtllm_forge.config.settings import Settings
from trtllm_forge.errors import (
    CheckpointError,
    ConfigError,
    ForgeError,
    PrerequisiteError,
    RenderError,
    ServerError,
)
from trtllm_forge.machine.process.secrets import environment_without_secrets
from trtllm_forge.serving.plan.options import ServeOptions
from trtllm_forge.serving.plan.repositories import NamedRepository
from trtllm_forge.serving.records.record import process_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import IO

    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.records.record import ProcessId

SUPERVISOR = "trtllm_forge.serving.server.supervisor"
REPORTS = ("note", "decision", "warning", "waiting", "command_started", "child_line")

_ERRORS = (ConfigError, PrerequisiteError, CheckpointError, RenderError, ServerError)
_STOP_S = 60.0
_POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class DetachedServer:
    """A detached server that is ready: what the command line prints."""

    text: str
    document: Mapping[str, object]


def start_detached(options: ServeOptions, settings: Settings, reporter: Reporter) -> DetachedServer:
    """Start a supervisor and return once its server is ready.

    Raises:
        ForgeError: Whatever ``start_server`` raises in the supervisor.
    """
    starter = subprocess.Popen(
        [sys.executable, "-m", SUPERVISOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment_without_secrets(),
        start_new_session=True,
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    with starter.stdout as words:
        with starter.stdin as request:
            supervisor = _supervisor(words)
            # Interrupted before this, it finds no request and ends.
            request.write(request_text(options, settings).encode())
        starter.wait()
        try:
            return _last_word(words, reporter)
        except (KeyboardInterrupt, SystemExit):
            _end(supervisor)
            raise


def request_text(options: ServeOptions, settings: Settings) -> str:
    """Return the request that ``read_request`` reads."""
    return json.dumps({"options": asdict(options), "settings": asdict(settings)}, default=str)


def read_request(text: str) -> tuple[ServeOptions, Settings]:
    """Return the request that a supervisor was given."""
    request = json.loads(text)
    options = request["options"]
    repositories = tuple(
        NamedRepository(name=one["name"], folder=Path(one["folder"]))
        for one in options.pop("repositories")
    )
    section = ServeSection(**options.pop("section"))
    settings = Settings(**{name: Path(value) for name, value in request["settings"].items()})
    return ServeOptions(repositories=repositories, section=section, **options), settings


def error_word(error: ForgeError) -> Mapping[str, object]:
    """Return the document of an error."""
    return {
        "error": {
            "what": error.what,
            "why": error.why,
            "hint": error.hint,
            "log": str(error.log_path) if error.log_path else None,
            "exit_code": error.exit_code,
        }
    }


def _supervisor(words: IO[bytes]) -> ProcessId:
    first = next(_spoken(words), {})
    supervisor = process_id(first["pid"]) if "pid" in first else None
    if supervisor is None:
        what = "the background supervisor ended before it could start the server"
        raise ServerError(what)
    return supervisor


def _end(supervisor: ProcessId) -> None:
    """Have it stop what it is starting."""
    if supervisor.is_running():
        os.kill(supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while supervisor.is_running() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _last_word(words: IO[bytes], reporter: Reporter) -> DetachedServer:
    for word in _spoken(words):
        if "report" in word and word["report"] in REPORTS:
            getattr(reporter, word["report"])(*word["words"])
        elif "ready" in word:
            return DetachedServer(text=word["ready"], document=word["document"])
        elif "error" in word:
            raise _error(word["error"])
    what = "the supervisor ended before the server was ready"
    raise ServerError(what, why="it was killed, or its output above says why")


def _spoken(words: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in words:
        yield json.loads(line)


def _error(word: Mapping[str, Any]) -> ForgeError:
    kind = next((k for k in _ERRORS if k.exit_code == word["exit_code"]), ForgeError)
    log_path = None if word["log"] is None else Path(word["log"])
    return kind(word["what"], why=word["why"], hint=word["hint"], log_path=log_path)
