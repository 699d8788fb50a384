"""``start_server`` and ``forge serve`` against a fake Triton: starts, failures, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from tests.ports import free_port
from tests.process.fake_triton import MODEL_FAILS_LOG, build_repository, put_on_path
from tests.process.recording import RecordingReporter, eventually, is_running
from tests.serving import options_for
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.errors import PrerequisiteError, ServerError
from trtllm_forge.serving.plan import request as request_module
from trtllm_forge.serving.records.find import LOCK_NAME, running_servers
from trtllm_forge.serving.records.record import process_id
from trtllm_forge.serving.server.running_server import ServedModel
from trtllm_forge.serving.server.serve import start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.serving.plan.options import ServeOptions

CHECKOUT_DIR = Path(__file__).parent.parent.parent.parent


def mock_repository() -> Path:
    return build_repository(read_settings().model_repos_dir.absolute() / "mock")


def build_mirrored_repository(folder: Path) -> Path:
    """Return a repository that cannot be served from where it is."""
    build_repository(folder, backend="tensorrtllm")
    with (folder / "tensorrt_llm" / "config.pbtxt").open("a") as config:
        value = '{ string_value: "/deployed/tensorrt_llm/1" }'
        config.write(f'parameters: {{ key: "gpt_model_path" value: {value} }}\n')
    return folder


def serve_options(repository_dir: Path, **section: Any) -> ServeOptions:
    """Return options on ports that are free now."""
    return options_for(
        repository_dir,
        http_port=free_port("127.0.0.1"),
        grpc_port=free_port("127.0.0.1"),
        metrics_port=free_port("127.0.0.1"),
        **section,
    )


def serve_text(*arguments: str) -> tuple[int, str]:
    """Return exit code and stderr of ``forge serve``."""
    result = CliRunner().invoke(app, ["serve", *arguments])
    return result.exit_code, result.stderr


def left_in_servers() -> list[str]:
    return [path.name for path in (read_settings().state_dir / "servers").iterdir()]


def log_paths() -> list[Path]:
    return sorted((read_settings().state_dir / "logs").iterdir())


@contextmanager
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def start_forge_serve(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trtllm_forge", "serve", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT_DIR)},
        start_new_session=True,
    )


@contextmanager
def forge_serve(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """Give a real ``forge serve --json`` and its one document."""
    serve = start_forge_serve(*arguments)
    assert serve.stdout is not None
    try:
        text = ""
        while not text.endswith("\n}\n"):
            line = serve.stdout.readline()
            assert line, serve.communicate()[1]
            text += line
        yield serve, json.loads(text)
    finally:
        serve.kill()
        serve.communicate()


def test_a_ready_server_is_remembered_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    options = serve_options(mock_repository())
    settings = read_settings()

    with start_server(options, settings, RecordingReporter()) as server:
        records = running_servers(settings.state_dir)
        assert [(r.name, r.triton, r.urls) for r in records] == [
            ("mock", process_id(server.pid), server.urls)
        ]
        assert records[0].repository_dir == options.repository_dir
        assert server.models == (ServedModel(name="ensemble", version="1", state="READY"),)
        assert server.urls.http == f"http://127.0.0.1:{options.section.http_port}"

    assert not is_running(server.pid)
    assert left_in_servers() == [LOCK_NAME]


def test_two_servers_of_one_repository_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    repository_dir, settings = mock_repository(), read_settings()
    reporter = RecordingReporter()

    # The second's ports are chosen once the first holds its own.
    with (
        start_server(serve_options(repository_dir), settings, reporter) as first,
        start_server(serve_options(repository_dir), settings, reporter) as second,
    ):
        assert (first.name, second.name) == ("mock", "mock-2")
        assert len(running_servers(settings.state_dir)) == 2


def test_nothing_is_left_of_a_repository_whose_name_is_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    settings = read_settings()
    repository_dir = build_mirrored_repository(tmp_path / "m[1]")

    with start_server(serve_options(repository_dir), settings, RecordingReporter()) as server:
        assert [record.name for record in running_servers(settings.state_dir)] == ["m[1]"]
        assert len(list((settings.state_dir / "run").iterdir())) == 1
        assert server.plan.command == f"forge serve '{repository_dir}'"

    assert left_in_servers() == [LOCK_NAME]
    assert list((settings.state_dir / "run").iterdir()) == []


def test_triton_is_not_told_the_hubs_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_secret")
    options = serve_options(mock_repository())

    with start_server(options, read_settings(), RecordingReporter()) as server:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes()

    assert b"FAKE_TRITON=ready" in environment
    assert b"hf_secret" not in environment


def test_wait_raises_when_the_server_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    options = serve_options(mock_repository())

    with start_server(options, read_settings(), RecordingReporter()) as server:
        os.kill(server.pid, signal.SIGSEGV)
        with pytest.raises(ServerError) as caught:
            server.wait()

    error = caught.value
    assert (
        error.what == f"Triton (process {server.pid}), which served mock, ended with signal SIGSEGV"
    )
    assert error.why.startswith("Triton or one of its backends crashed (SIGSEGV); ")
    assert (error.hint, error.log_path) == ("forge serve --restart on-failure", server.log_path)


def test_triton_killed_from_outside_ends_forge_with_7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    mock_repository()

    with forge_serve() as (serve, document):
        pid = int(str(document["pid"]))
        os.kill(pid, signal.SIGKILL)
        stdout, stderr = serve.communicate(timeout=15)

    assert serve.returncode == 7
    assert stdout == ""
    assert stderr.splitlines()[-4:] == [
        f"error: Triton (process {pid}), which served mock, ended with signal SIGKILL",
        "  why:  something killed it; most often that is the kernel running out of memory",
        "  try:  dmesg --level err,warn | grep -i -E 'oom|killed process'",
        f"  log:  {document['log']}",
    ]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["ctrl-c", "term"]
)
def test_a_signal_stops_the_server_and_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    put_on_path(tmp_path, monkeypatch)
    mock_repository()

    with forge_serve() as (serve, document):
        pid = int(str(document["pid"]))
        serve.send_signal(number)
        stdout, _ = serve.communicate(timeout=15)

    assert serve.returncode == code
    assert stdout == ""
    assert not is_running(pid)
    assert left_in_servers() == [LOCK_NAME]


def test_nothing_of_the_server_outlives_a_killed_forge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    mock_repository()

    with forge_serve() as (serve, document):
        serve.kill()
        assert serve.wait(timeout=15) == -signal.SIGKILL
        assert eventually(lambda: not is_running(int(str(document["pid"]))))
        assert eventually(lambda: left_in_servers() == [LOCK_NAME])


def test_a_model_that_does_not_load_is_named_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "triton.log"
    log_path.write_text(MODEL_FAILS_LOG)
    put_on_path(tmp_path, monkeypatch, mode=str(log_path))
    mock_repository()

    code, stderr = serve_text("mock")

    assert code == 7
    assert stderr.splitlines()[-3:] == [
        "error: model tensorrt_llm did not load: "
        "ValueError: engine.json names 3 layers, the engine has 2",
        "  why:  /srv/mock/tensorrt_llm/1/model.py:47 in initialize",
        f"  log:  {log_paths()[0]}",
    ]


def test_a_server_that_ends_without_a_word_is_told_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch, mode="silent_exit")
    mock_repository()

    code, stderr = serve_text("mock")

    assert code == 7
    assert stderr.splitlines()[-3:] == [
        "error: Triton ended with exit code 9 before it was ready",
        "  why:  it wrote nothing",
        f"  log:  {log_paths()[0]}",
    ]


def test_a_server_that_is_not_ready_in_time_tells_what_still_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch, mode="never_ready")
    mock_repository()

    code, stderr = serve_text("mock", "--ready-timeout-s", "6")

    assert code == 7
    assert re.fullmatch(
        r"loading tensorrt_llm, 0 of 1 models are loaded \(\d s, \d+\.\d [MG]iB of memory\)",
        stderr.splitlines()[-5],
    )
    assert stderr.splitlines()[-4:] == [
        "error: Triton was not ready within 6 s",
        "  why:  it is alive and still loading tensorrt_llm",
        "  try:  forge serve mock --ready-timeout-s 12",
        f"  log:  {log_paths()[0]}",
    ]


def test_a_wanted_port_that_is_taken_is_refused_with_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    mock_repository()

    with listener() as port:
        code, stderr = serve_text("mock", "--grpc-port", str(port))

    # Before them, notes of ports that another server of this machine holds.
    error, why, hint = stderr.splitlines()[-3:]
    assert code == 7
    assert error == f"error: port {port}, requested for gRPC, is taken"
    assert why == f"  why:  process {os.getpid()} ({own_name()}) listens on it"
    assert hint.startswith("  try:  forge serve mock --grpc-port ")


def test_a_hint_names_a_repository_elsewhere_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    folder = build_repository(tmp_path / "else where" / "mock")

    with listener() as port:
        _, stderr = serve_text(str(folder), "--grpc-port", str(port))

    hint = stderr.splitlines()[-1]
    assert hint.startswith(f"  try:  forge serve '{folder}' --grpc-port ")


def test_a_state_folder_that_cannot_be_written_is_named_with_one_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    mock_repository()
    monkeypatch.setenv("FORGE_STATE_DIR", "/proc/nope")

    code, stderr = serve_text("mock")

    assert code == 3
    assert stderr == (
        "error: /proc/nope cannot be written\n"
        "  why:  /proc/nope: No such file or directory\n"
        f"  try:  FORGE_STATE_DIR={Path(tempfile.gettempdir()) / 'forge-state'} forge serve mock\n"
    )


@pytest.mark.parametrize("part", ["logs", "run"])
def test_a_part_of_the_state_folder_that_cannot_be_written_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    put_on_path(tmp_path, monkeypatch)
    build_mirrored_repository(read_settings().model_repos_dir / "mock")
    state_dir = read_settings().state_dir
    state_dir.mkdir(parents=True)
    (state_dir / part).write_text("a file where a folder has to be")

    code, stderr = serve_text("mock")

    # Before them, notes of ports that another server of this machine holds.
    error, why, hint = stderr.splitlines()[-3:]
    assert code == 3
    assert error == f"error: {state_dir} cannot be written"
    assert why.startswith(f"  why:  {state_dir / part}")
    assert hint.endswith("forge serve mock")


def test_a_cache_folder_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(read_settings(), cache_dir=Path("/proc/nope"))
    monkeypatch.setattr(
        request_module, "locate_triton", lambda cache_dir: (cache_dir / "x").mkdir()
    )

    with pytest.raises(PrerequisiteError) as caught:
        start_server(serve_options(mock_repository()), settings, RecordingReporter())

    assert caught.value.what == "/proc/nope cannot be written"
    assert caught.value.hint.startswith("FORGE_CACHE_DIR=")


def own_name() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_ranks_that_no_engine_has_are_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(tmp_path, monkeypatch)
    mock_repository()

    code, stderr = serve_text("mock", "--world-size", "2")

    assert code == 2
    assert stderr == (
        "error: --world-size 2 does not fit: no model here runs on several ranks\n"
        "  try:  forge serve mock --world-size 1\n"
    )
