"""The client against servers that are no Triton, or stop being one in the middle."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.process.recording import RecordingReporter
from trtllm_forge.cli.app import app
from trtllm_forge.errors import ServerError
from trtllm_forge.evaluation import probe as probe_module
from trtllm_forge.evaluation.probe import probe_server
from trtllm_forge.triton.client.address import ServerUrls
from trtllm_forge.triton.client.http import TextChunk, TritonAnswerError, TritonHttp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def with_length(body: bytes, *, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


def chunk(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


@contextmanager
def answering(answer: bytes | Callable[[str], Iterable[bytes]]) -> Iterator[str]:
    """Give the address of a server that sends its answer, as it is, and hangs up.

    One that depends on the request's path is sent in pieces, for as long as it is read.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    path = connection.recv(1 << 16).split()[1].decode()
                    for piece in [answer] if isinstance(answer, bytes) else answer(path):
                        connection.sendall(piece)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def everything(http: TritonHttp) -> list[Callable[[], object]]:
    return [
        http.server_version,
        http.models,
        lambda: http.model_metadata("ensemble"),
        lambda: http.is_decoupled("ensemble"),
        lambda: http.inference_count("ensemble"),
        lambda: http.generate("ensemble", {}),
        lambda: list(http.generate_stream("ensemble", {})),
    ]


@pytest.mark.parametrize("body", [b"<html>hello", b"[1]", b'"text"', b"7", b"null"], ids=repr)
def test_a_foreign_body_is_told_as_no_tritons_whatever_is_asked(body: bytes) -> None:
    with answering(with_length(b"data: " + body)) as url:
        stream = everything(TritonHttp(url))[-1]
        with pytest.raises(ServerError, match=f"^{url} does not answer like a Triton server$"):
            stream()
    with answering(with_length(body)) as url:
        asked = everything(TritonHttp(url))[:-1]
        for ask in asked:
            with pytest.raises(ServerError, match=f"^{url} does not answer like a Triton server$"):
                ask()


def test_the_commands_tell_of_an_address_that_is_no_triton() -> None:
    page = with_length(b"<html>\n<body>not here", status="404 Not Found")

    with answering(page) as url:
        result = CliRunner().invoke(app, ["complete", "def f", "--http", url])

    assert result.exit_code == 7
    assert result.stderr == (
        f"error: {url} does not answer like a Triton server\n  why:  HTTP status 404: <html>\n"
    )


@pytest.mark.parametrize("prefix", ["", "data: "], ids=["whole", "stream"])
def test_a_tritons_own_error_stays_its_answer(prefix: str) -> None:
    body = prefix + json.dumps({"error": "no such model"})
    refusal = with_length(body.encode(), status="400 Bad Request")

    with answering(refusal) as url, pytest.raises(TritonAnswerError, match=r"^no such model$"):
        TritonHttp(url).generate("ensemble", {})
    empty = with_length(b"", status="503 Busy")
    with answering(empty) as url, pytest.raises(TritonAnswerError, match=r"^HTTP status 503$"):
        TritonHttp(url).generate("ensemble", {})


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
def test_a_server_that_dies_within_a_body_is_told(status: str) -> None:
    cut = with_length(b'{"te', status=status, length=99)

    with answering(cut) as url, pytest.raises(ServerError) as caught:
        TritonHttp(url).generate("ensemble", {})

    assert caught.value.what == f"the server at {url} went away in the middle of an answer"


@pytest.mark.parametrize("rest", [b"", b"5\r\nda"], ids=["between-chunks", "within-a-chunk"])
def test_a_stream_that_is_cut_off_is_not_taken_for_one_that_has_ended(rest: bytes) -> None:
    with answering(CHUNKED + chunk(b'data: {"text_output": "a"}\n\n') + rest) as url:
        chunks = TritonHttp(url).generate_stream("ensemble", {})
        first = next(chunks)
        with pytest.raises(ServerError) as caught:
            next(chunks)

    assert first.text == "a"
    assert caught.value.what == f"the server at {url} went away in the middle of an answer"


def test_events_come_whole_however_they_are_cut_into_chunks() -> None:
    body = b'data: {"text_output": "a"}\n\ndata: {"text_output": "b"}\n\n'
    cut = [body[at : at + 7] for at in range(0, len(body), 7)]

    with answering(CHUNKED + b"".join(map(chunk, cut)) + b"0\r\n\r\n") as url:
        chunks = list(TritonHttp(url).generate_stream("ensemble", {}))

    wanted = [TextChunk(text=t, num_input_tokens=None, num_output_tokens=None) for t in "ab"]
    assert chunks == wanted


class BusyTriton:
    """Answers as a Triton whose models never rest, and whose short requests come back empty."""

    def __init__(self) -> None:
        self._streams = 0
        self._inferences = 0

    def __call__(self, path: str) -> Iterable[bytes]:
        if path.endswith("/generate_stream"):
            return self._stream()
        self._inferences += 1
        document: object = {
            "version": "2.51.0",
            "text_output": "a",
            "model_stats": [{"inference_count": self._inferences}],
        }
        if path.endswith("/index"):
            document = [{"name": "ensemble"}]
        return [with_length(json.dumps(document).encode())]

    def _stream(self) -> Iterable[bytes]:
        self._streams += 1
        event, end = chunk(b'data: {"text_output": "a"}\n\n'), b"0\r\n\r\n"
        if self._streams == 3:  # after those of "streaming" and the long one of "batching"
            return [CHUNKED, end]
        # The fifth is the one to cancel; the fourth told how long it would take.
        return [CHUNKED, event, end] if self._streams < 5 else chain([CHUNKED], repeat(event))


def test_probes_of_a_busy_server_and_an_empty_stream_fail_with_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe_module, "_QUIET_SLACK_S", 0.5)

    with answering(BusyTriton()) as url:
        results = probe_server(ServerUrls(http=url), None, RecordingReporter())

    details = {result.name: result.detail for result in results if not result.ok}
    assert details["batching"] == (
        "wanted a first token of a short request, found an answer without any"
    )
    assert details["cancel"].startswith(
        "busy, not judged: wanted postprocessing to rest after a cancel, found it working for "
    )
