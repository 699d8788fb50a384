"""What forge does about a real Triton that is told to end, or whose processes die."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process.recording import eventually, is_running
from tests.triton.mock_repository import build_mock_repository
from tests.triton.test_launch import forge_serve
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import ForgeError
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.serving.records.find import running_servers
from trtllm_forge.triton.client.grpc import GrpcGeneration
from trtllm_forge.triton.client.http import TritonHttp

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.triton

LETTERS = 40
LONG: dict[str, str | int | float | bool] = {
    "text_input": "hello",
    "max_tokens": 100,
    "stream": True,
}


def slow_repository(folder: Path, *, step_ms: int) -> Path:
    """Return a mock repository whose generations take 40 steps."""
    build_mock_repository(folder)
    path = folder / "tensorrt_llm" / "config.pbtxt"
    text = path.read_text()
    assert 'string_value: "2"' in text
    path.write_text(text.replace('string_value: "2"', f'string_value: "{step_ms}"'))
    return folder


class Stream(threading.Thread):
    """A stream of the ensemble that is read until it ends."""

    def __init__(self, document: dict[str, object], *, by_grpc: bool) -> None:
        super().__init__()
        self._grpc = str(document["grpc"]) if by_grpc else ""
        self._http = TritonHttp(str(document["http"]))
        self.text = ""
        self.error = ""
        self.start()
        assert eventually(lambda: bool(self.text) or not self.is_alive())

    def run(self) -> None:
        try:
            for text in self._chunks():
                self.text += text
        except ForgeError as error:
            self.error = error.what

    def _chunks(self) -> Iterator[str]:
        if not self._grpc:
            yield from (chunk.text for chunk in self._http.generate_stream("ensemble", {**LONG}))
            return
        generation = GrpcGeneration(self._grpc, "ensemble", LONG)
        yield from (chunk.text for chunk in generation.chunks(20))
        generation.cancel()


def stub_of(model: str, group: int) -> int:
    command = f"/{model}/1/model.py".encode()
    return next(
        pid
        for pid in living_members(group)
        if command in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 2)[1]
    )


def test_term_takes_no_request_and_lets_those_that_run_end(tmp_path: Path) -> None:
    repository_dir = slow_repository(tmp_path / "mock", step_ms=40)

    with forge_serve(repository_dir) as (serve, document):
        members = living_members(int(str(document["pid"])))
        streams = [Stream(document, by_grpc=by_grpc) for by_grpc in (False, True)]
        serve.send_signal(signal.SIGTERM)
        http = TritonHttp(str(document["http"]))
        assert eventually(lambda: not http.is_model_ready("ensemble"))
        late = [Stream(document, by_grpc=by_grpc) for by_grpc in (False, True)]
        assert all(stream.is_alive() for stream in streams)
        for stream in (*streams, *late):
            stream.join()
        stdout, stderr = serve.communicate(timeout=20)

    assert [(len(stream.text), stream.error) for stream in streams] == [(LETTERS, "")] * 2
    refusal = "Request for unknown model: 'ensemble' has no available versions"
    assert [(stream.text, stream.error) for stream in late] == [("", refusal)] * 2
    assert (serve.returncode, stdout) == (0, "")
    assert (
        "waiting for the running requests of mock, at most 30 s; a second signal ends them now\n"
    ) in stderr
    assert not any(map(is_running, members))


@pytest.mark.parametrize("by", ["deadline", "second-signal"])
def test_requests_that_run_for_too_long_are_ended(tmp_path: Path, by: str) -> None:
    repository_dir = slow_repository(tmp_path / "mock", step_ms=1000)
    flags = ["--drain-timeout-s", "0.6"] if by == "deadline" else []

    with forge_serve(repository_dir, *flags) as (serve, document):
        stream = Stream(document, by_grpc=False)
        serve.send_signal(signal.SIGTERM)
        assert serve.stderr is not None
        told = serve.stderr.readline()
        if by == "second-signal":
            serve.send_signal(signal.SIGTERM)
        _, stderr = serve.communicate(timeout=20)
        stream.join()

    assert told.startswith("waiting for the running requests of mock, at most")
    assert serve.returncode == 0
    assert "went away in the middle of an answer" in stream.error
    ended = "warning: requests still running after 0.6 s are cut off\n"
    assert (ended in stderr) is (by == "deadline")


def test_a_stub_that_dies_ends_the_server_with_its_model_named(tmp_path: Path) -> None:
    with forge_serve(build_mock_repository(tmp_path / "mock")) as (serve, document):
        group = int(str(document["pid"]))
        members = living_members(group)
        stub = stub_of("postprocessing", group)
        os.kill(stub, signal.SIGKILL)
        _, stderr = serve.communicate(timeout=20)

    assert serve.returncode == 7
    assert stderr.splitlines()[-4:] == [
        f"error: the Python process of model postprocessing ({stub}) ended with signal SIGKILL, "
        "so mock cannot serve",
        "  why:  something killed it; most often that is the kernel running out of memory; "
        "Triton would answer every request with an error",
        "  try:  dmesg --level err,warn | grep -i -E 'oom|killed process'",
        f"  log:  {document['log']}",
    ]
    assert not any(map(is_running, members))


def test_a_crashed_triton_is_started_again_and_leaves_its_own_files_alone(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"forge_{os.getpid()}_of_another"
    other.touch()
    try:
        repository_dir = build_mock_repository(tmp_path / "mock")
        with forge_serve(repository_dir, "--restart", "on-failure") as (serve, document):
            group = int(str(document["pid"]))
            members = living_members(group)
            os.kill(group, signal.SIGSEGV)
            assert serve.stderr is not None
            told = [serve.stderr.readline(), serve.stderr.readline()]
            answer = TritonHttp(str(document["http"])).generate(
                "ensemble", {"text_input": "hello", "max_tokens": 3}
            )
            regions = list(Path("/dev/shm").glob(f"forge_{serve.pid}_*"))
            serve.send_signal(signal.SIGTERM)
            stdout, _ = serve.communicate(timeout=20)
        assert other.exists()
    finally:
        other.unlink()

    assert told[0].startswith(f"warning: Triton (process {group}), which served mock, ended with ")
    assert told[0].endswith("; restarting in 1 s, restart 1 of 5\n")
    assert told[1].startswith("mock is ready again after ")
    assert answer.text == "hellofgh"
    assert len(regions) == 3
    assert (serve.returncode, stdout) == (0, "")
    assert not any(map(is_running, members))
    assert list(Path("/dev/shm").glob(f"forge_{serve.pid}_*")) == []


def test_the_model_control_is_open_to_who_has_the_key(tmp_path: Path) -> None:
    with forge_serve(build_mock_repository(tmp_path / "mock")) as (_, document):
        (record,) = running_servers(read_settings().state_dir)
        key = record.urls.control_key
        url = str(document["http"])

        with pytest.raises(ForgeError, match="This API is restricted"):
            TritonHttp(url).unload("ensemble")
        assert TritonHttp(url).ready_models(("ensemble", "other")) == ("ensemble",)
        assert len(TritonHttp(url, control_key=key).models()) == 4
