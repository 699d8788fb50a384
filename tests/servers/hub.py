"""A Hugging Face Hub on loopback: the real API's paths and headers, and faults on request.

``LocalHub`` answers ``/api/models/{id}[/revision/{rev}]?blobs=true`` and
``/{id}/resolve/{rev}/{file}`` by HEAD and GET. Files given as ``large`` are what the Hub keeps in
LFS: ``resolve`` redirects them to a second host, which serves byte ranges and must never see the
token. Every request is kept in ``requests``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from types import TracebackType

COMMIT = "1f2e3d4c5b6a79880716253443526170a1b2c3d4"


@dataclass
class HubFile:
    """One file: its bytes, and how the Hub lies about it, if it does."""

    content: bytes
    large: bool = False
    claimed_size_bytes: int | None = None
    served: bytes | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id

    @property
    def size_bytes(self) -> int:
        return len(self.content) if self.claimed_size_bytes is None else self.claimed_size_bytes


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        gated: ``resolve`` wants this token: 401 without one, 403 with another.
        invalid_token: This token is refused with 401 wherever it is sent.
        status: Answer everything on the main host so.
        headers: Sent with ``status``.
        cut_after_bytes: The second host closes the connection after so many bytes of a body.
        cuts: How often it does.
        store_status: The second host answers so, ``store_failures`` times.
        no_ranges: The second host ignores ``Range``.
    """

    gated: str | None = None
    invalid_token: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after_bytes: int = 0
    cuts: int = 0
    store_status: int = 0
    store_failures: int = 0
    no_ranges: bool = False


@dataclass(frozen=True)
class SeenRequest:
    """A request as it came in; ``host`` is ``hub`` or ``store``."""

    host: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int


class LocalHub:
    """A Hub and the second host its large files live on; a context manager."""

    def __init__(self, models: dict[str, dict[str, HubFile]]) -> None:
        self.models = models
        self.faults = Faults()
        self.requests: list[SeenRequest] = []
        self.lock = threading.Lock()
        self._servers = [_serve(self, _HubHandler), _serve(self, _StoreHandler)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def store_url(self) -> str:
        # Another name of the same machine, hence another host.
        return f"http://localhost:{self._servers[1].server_port}"

    def seen(self, host: str, method: str = "GET") -> list[SeenRequest]:
        return [r for r in self.requests if r.host == host and r.method == method]

    def __enter__(self) -> LocalHub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LocalHub

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - theirs
        # A client that goes away is part of the tests.
        return


def _serve(hub: LocalHub, handler: type[_Handler]) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.hub = hub
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    host = ""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        raise NotImplementedError

    @property
    def token(self) -> str | None:
        value = self.headers.get("Authorization")
        return value.removeprefix("Bearer ") if value else None

    def reply(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: int = 0
    ) -> None:
        with self.server.hub.lock:
            self.server.hub.requests.append(
                SeenRequest(
                    host=self.host,
                    method=self.command,
                    path=self.path,
                    range=self.headers.get("Range"),
                    authorization=self.headers.get("Authorization"),
                    status=status,
                )
            )
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut] if cut else body)
        if cut:
            self.wfile.flush()
            self.close_connection = True

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.reply(status, json.dumps({"error": message}).encode(), headers)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: ARG002 - theirs
        return


class _HubHandler(_Handler):
    host = "hub"

    def answer(self) -> None:
        faults = self.server.hub.faults
        if faults.status is not None:
            self.reply(faults.status, b"{}", faults.headers)
            return
        if faults.invalid_token is not None and self.token == faults.invalid_token:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return
        path = unquote(urlsplit(self.path).path)
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = listing or resolve
        files = self.server.hub.models.get(found.group(1)) if found else None
        if found is None or files is None:
            # The Hub hides what exists from those who have not said who they are.
            self.refuse(404 if self.token else 401, "RepoNotFound", "Repository not found")
        elif found.group(2) not in (None, "main", COMMIT):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {found.group(2)}")
        elif listing:
            self._list(listing.group(1), files)
        elif faults.gated is not None and self.token != faults.gated:
            self.refuse(403 if self.token else 401, "GatedRepo", "Access to model is restricted")
        elif found.group(3) not in files:
            self.refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._resolve(found.group(1), found.group(3), files[found.group(3)])

    def _list(self, repo_id: str, files: dict[str, HubFile]) -> None:
        siblings = []
        for name, file in files.items():
            entry: dict[str, Any] = {
                "rfilename": name,
                "size": file.size_bytes,
                "blobId": file.blob_id,
            }
            if file.large:
                size = {"size": file.size_bytes, "pointerSize": 134}
                entry["lfs"] = {"sha256": file.sha256, **size}
            siblings.append(entry)
        document = {"id": repo_id, "sha": COMMIT, "private": False, "siblings": siblings}
        self.reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo_id: str, name: str, file: HubFile) -> None:
        common = {"X-Repo-Commit": COMMIT, "ETag": f'"{file.etag}"'}
        if not file.large:
            self.reply(200, file.content if file.served is None else file.served, common)
            return
        headers = {
            **common,
            "X-Linked-Size": str(file.size_bytes),
            "X-Linked-ETag": f'"{file.etag}"',
            "Location": f"{self.server.hub.store_url}/{repo_id}/{name}?signature=abc",
        }
        self.reply(302, b"", headers)


class _StoreHandler(_Handler):
    host = "store"

    def answer(self) -> None:
        hub = self.server.hub
        faults = hub.faults
        if faults.store_failures > 0:
            faults.store_failures -= 1
            self.reply(faults.store_status, b"", faults.headers)
            return
        _, owner, model, name = unquote(urlsplit(self.path).path).split("/", 3)
        file = hub.models[f"{owner}/{model}"][name]
        body = file.content if file.served is None else file.served
        status, headers = 200, {"ETag": f'"{file.etag}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and not faults.no_ranges:
            start = int(wanted.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        cut = 0
        if faults.cuts > 0 and self.command == "GET":
            faults.cuts -= 1
            cut = faults.cut_after_bytes
        self.reply(status, body, headers, cut=cut)
