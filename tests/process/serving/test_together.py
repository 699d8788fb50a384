"""Servers beside other servers: starting at once, on one port, under one name."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.process.fake_triton import put_on_path
from tests.process.recording import RecordingReporter, eventually
from tests.process.serving.test_start import (
    log_paths,
    mock_repository,
    serve_options,
    start_forge_serve,
)
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import ServerError
from trtllm_forge.serving.records.find import running_servers
from trtllm_forge.serving.records.record import ServerRecord, own_process_id, write_record
from trtllm_forge.serving.server.serve import start_server
from trtllm_forge.triton.client.address import ServerUrls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def test_a_server_that_starts_while_another_does_sees_the_ports_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    gate = tmp_path / "gate"
    monkeypatch.setenv("FAKE_TRITON_GATE", str(gate))
    mock_repository()
    ports = vars(serve_options(tmp_path).section)
    flags = [f"--{n}-port={ports[f'{n}_port']}" for n in ("http", "grpc", "metrics")]

    first = start_forge_serve(*flags)
    assert eventually(lambda: any(read_settings().state_dir.glob("logs/*")))
    second = start_forge_serve(*flags)
    try:
        stdout, _ = second.communicate(timeout=30)
        states = [record.state for record in running_servers(read_settings().state_dir)]
    finally:
        for serve in (first, second):
            serve.kill()
            serve.communicate()

    assert states == ["starting"]
    assert second.returncode == 7
    error = json.loads(stdout)["error"]
    assert error["what"] == f"port {ports['http_port']}, requested for HTTP, is taken"
    assert error["why"] == "the server mock uses it and is starting"
    assert len(log_paths()) == 1


def test_an_answer_from_another_server_on_the_port_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    monkeypatch.setenv("FAKE_TRITON_GATE", str(tmp_path / "never"))
    options = serve_options(mock_repository(), ready_timeout_s=1.0)

    with (
        ExitStack() as stack,
        pytest.raises(ServerError) as caught,
        start_server(options, read_settings(), OtherAnswers(stack, options.section.http_port)),
    ):
        pass

    assert caught.value.what == "Triton was not ready within 1 s"


class OtherAnswers(RecordingReporter):
    """Has another server take the port just before Triton is started."""

    def __init__(self, stack: ExitStack, port: int | None) -> None:
        super().__init__()
        self._stack, self._port = stack, port or 0

    def command_started(self, argv: Sequence[str]) -> None:
        super().command_started(argv)
        server = HTTPServer(("127.0.0.1", self._port), AlwaysWell)
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever).start()


class AlwaysWell(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def test_a_record_that_is_another_servers_by_now_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    settings = read_settings()
    other = ServerRecord(
        name="mock",
        written_state="ready",
        owner=own_process_id(),
        triton=None,
        stamp="1_1",
        since_s=1.0,
        urls=ServerUrls(http="http://127.0.0.1:1"),
        repository_dir=tmp_path,
        log_path=tmp_path,
    )

    with start_server(serve_options(mock_repository()), settings, RecordingReporter()):
        write_record(settings.state_dir, other)

    assert running_servers(settings.state_dir) == (other,)
