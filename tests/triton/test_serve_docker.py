"""Triton in a container: a stand-in for docker runs the wheel's real one, with real signals."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.ports import port_flags
from tests.process.recording import eventually, is_running
from tests.triton.docker_machine import IMAGE, DockerMachine
from tests.triton.mock_repository import build_mock_repository
from tests.triton.ranks import is_server, rank_of
from tests.triton.test_launch import forge_serve
from tests.triton.test_supervision import LETTERS, Stream, slow_repository, stub_of
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.files.private import read_key
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.machine.process.rank_log import rank_log_path
from trtllm_forge.serving.records.record import all_records
from trtllm_forge.serving.server import container_watch
from trtllm_forge.triton.client.http import TritonHttp

if TYPE_CHECKING:
    from tests.triton.docker_machine import DockerMachine as Machine

pytestmark = pytest.mark.triton

DOCKER = ("--triton", f"docker:{IMAGE}")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "machine"
    folder.mkdir()
    return DockerMachine(folder, monkeypatch)


def the_container(machine: Machine) -> tuple[str, tuple[int, ...]]:
    """Return the name of the one container, and the processes in it."""
    assert len(machine.containers) == 1, machine.calls[-1]
    ((name, pid),) = machine.containers.items()
    return name, living_members(pid)


def run_arguments(machine: Machine) -> list[str]:
    (call,) = [call for call in machine.calls if call[0] == "run"]
    return call


def test_a_server_in_a_container_answers_and_ends_with_its_requests(
    tmp_path: Path, machine: Machine
) -> None:
    repository_dir = slow_repository(tmp_path / "mock", step_ms=40)

    with forge_serve(repository_dir, *DOCKER) as (serve, document):
        name, members = the_container(machine)
        status = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
        listed = CliRunner().invoke(app, ["ps"]).stdout
        stream = Stream(document, by_grpc=True)
        serve.send_signal(signal.SIGTERM)
        stream.join()
        stdout, stderr = serve.communicate(timeout=20)

    assert (stream.error, len(stream.text)) == ("", LETTERS)
    assert (serve.returncode, stdout) == (0, "")
    assert "waiting for the running requests of mock" in stderr
    assert (status["container"], status["state"], status["is_answering"]) == (name, "ready", True)
    assert str(repository_dir) in listed
    assert len(members) == 4
    assert not any(map(is_running, members))
    assert machine.containers == {}
    assert name.startswith(f"forge-serve-mock-{serve.pid}_")
    assert not list((read_settings().state_dir / "run").glob("*"))


def test_the_container_gets_what_it_needs_and_no_more(tmp_path: Path, machine: Machine) -> None:
    repository_dir = build_mock_repository(tmp_path / "mock")

    with forge_serve(repository_dir, *DOCKER) as (_, document):
        call = run_arguments(machine)

    port = str(document["http"]).rpartition(":")[2]
    assert f"127.0.0.1:{port}:{port}" in call
    assert f"type=bind,source={repository_dir},target=/models,readonly" in call
    assert "--gpus" not in call
    assert call[call.index("--shm-size") + 1] == str(3 * (64 << 20) + (1 << 30))
    assert call[call.index(IMAGE) + 1] == "/opt/tritonserver/bin/tritonserver"


def test_the_key_is_shown_in_no_command_line_once_the_server_is_ready(
    tmp_path: Path, machine: Machine
) -> None:
    with forge_serve(build_mock_repository(tmp_path / "mock"), *DOCKER) as (serve, _):
        (record,) = all_records(read_settings().state_dir)
        key = read_key(record.urls.key_path)
        _, members = the_container(machine)
        docker = children_of(serve.pid)
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (*docker, *members)]

    assert key
    assert not any(key.encode() in line for line in lines)
    assert sum(b"forge-control-key=***" in line for line in lines) == 2


def test_a_killed_forge_takes_its_container_along_and_no_other(
    tmp_path: Path, machine: Machine
) -> None:
    with (
        forge_serve(build_mock_repository(tmp_path / "other"), *DOCKER),
        forge_serve(build_mock_repository(tmp_path / "mock"), *DOCKER) as (serve, _),
    ):
        (name,) = [name for name in machine.containers if "-mock-" in name]
        members = living_members(machine.containers[name])
        serve.kill()
        serve.wait(timeout=20)

        assert eventually(lambda: not any(map(is_running, members)), within_s=30)
        assert eventually(lambda: name not in machine.containers)
        assert len(machine.containers) == 1
    assert len(members) == 4


def test_a_container_whose_client_and_lifeline_were_killed_is_cleared_up_by_stop(
    tmp_path: Path, machine: Machine
) -> None:
    with forge_serve(build_mock_repository(tmp_path / "mock"), *DOCKER) as (serve, _):
        name, members = the_container(machine)
        (record,) = all_records(read_settings().state_dir)
        for pid in (*children_of(serve.pid), serve.pid):
            os.kill(pid, signal.SIGKILL)
        serve.wait(timeout=20)
        assert all(map(is_running, members))

        result = CliRunner().invoke(app, ["stop", "mock"])

    assert record.container == name
    assert result.stdout == "mock was not running; its leftovers are removed\n"
    assert not any(map(is_running, members))
    assert machine.containers == {}


def test_a_container_that_is_killed_ends_forge_with_its_reason(
    tmp_path: Path, machine: Machine
) -> None:
    with forge_serve(build_mock_repository(tmp_path / "mock"), *DOCKER) as (serve, document):
        name, members = the_container(machine)
        machine.docker("kill", name)
        _, stderr = serve.communicate(timeout=20)

    assert serve.returncode == 7
    assert stderr.splitlines()[-4:] == [
        f"error: container {name}, which served mock, ended with exit code 137",
        "  why:  something killed it; most often that is the kernel running out of memory",
        "  try:  dmesg --level err,warn | grep -i -E 'oom|killed process'",
        f"  log:  {document['log']}",
    ]
    assert not any(map(is_running, members))
    assert machine.containers == {}


def test_a_killed_container_is_started_again(tmp_path: Path, machine: Machine) -> None:
    flags = (*DOCKER, "--restart", "on-failure")
    with forge_serve(build_mock_repository(tmp_path / "mock"), *flags) as (serve, document):
        name, members = the_container(machine)
        machine.docker("kill", name)
        assert serve.stderr is not None
        told: list[str] = []
        while not told or not told[-1].startswith(("mock is ready again after ", "error: ")):
            told.append(serve.stderr.readline())
            assert told[-1]
        answer = TritonHttp(str(document["http"])).generate(
            "ensemble", {"text_input": "hello", "max_tokens": 3}
        )
        again, _ = the_container(machine)
        serve.send_signal(signal.SIGTERM)
        serve.communicate(timeout=20)

    assert any("restarting in 1 s, restart 1 of 5" in line for line in told)
    assert (answer.text, again) == ("hellofgh", name)
    assert not any(map(is_running, members))
    assert machine.containers == {}


def test_a_model_process_that_dies_in_a_container_ends_the_server(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_watch, "LOOK_EACH_S", 0.2)
    repository_dir, state_dir = build_mock_repository(tmp_path / "mock"), read_settings().state_dir

    def kill_the_stub() -> int:
        is_ready = eventually(
            lambda: [record.state for record in all_records(state_dir)] == ["ready"], within_s=60
        )
        assert is_ready
        ((_, leader),) = machine.containers.items()
        stub = stub_of("postprocessing", leader)
        os.kill(stub, signal.SIGKILL)
        return stub

    with ThreadPoolExecutor(1) as threads:
        killed = threads.submit(kill_the_stub)
        result = CliRunner().invoke(app, ["serve", str(repository_dir), *port_flags(), *DOCKER])
        stub = killed.result()

    assert result.exit_code == 7
    assert (
        f"error: the Python process of model postprocessing ({stub}) ended with an exit code "
        "that is not known, so mock cannot serve\n"
    ) in result.stderr
    assert machine.containers == {}


def test_a_detached_server_in_a_container_is_stopped_by_name(
    tmp_path: Path, machine: Machine
) -> None:
    repository_dir = build_mock_repository(tmp_path / "mock")
    runner = CliRunner()

    command = ["serve", str(repository_dir), "--detach", "--json", *port_flags(), *DOCKER]
    started = runner.invoke(app, command)
    try:
        name, members = the_container(machine)
        status = runner.invoke(app, ["status", "mock"])
        logs = runner.invoke(app, ["logs", "mock"])
    finally:
        stopped = runner.invoke(app, ["stop", "mock"])

    assert started.exit_code == 0, started.output
    assert f", container {name}\n" in status.stdout
    assert "Started Metrics Service at 127.0.0.1:" in logs.stdout
    assert (stopped.exit_code, stopped.stdout) == (0, "mock stopped\n")
    assert not any(map(is_running, members))
    assert machine.containers == {}


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def engine_repository(folder: Path, *, ranks: int = 1) -> Path:
    """Return a mock whose engine is of the C++ backend, rendered for another place."""
    build_mock_repository(folder)
    config_path = folder / "tensorrt_llm" / "config.pbtxt"
    text = config_path.read_text().replace('backend: "python"', 'backend: "tensorrtllm"')
    named = 'key: "gpt_model_path" value { string_value: "/srv/tensorrt_llm/1/engine" }'
    config_path.write_text(f"{text}\nparameters {{ {named} }}\n")
    (folder / "tensorrt_llm" / "1" / "model.py").unlink()
    engine_dir = folder / "tensorrt_llm" / "1" / "engine"
    engine_dir.mkdir()
    mapping = {"world_size": ranks, "tp_size": ranks, "pp_size": 1}
    config = {"version": "1.2.1", "pretrained_config": {"mapping": mapping}}
    (engine_dir / "config.json").write_text(json.dumps(config))
    for rank in range(ranks):
        (engine_dir / f"rank{rank}.engine").write_bytes(b"engine")
    return folder


def test_auto_serves_an_engine_in_the_image_of_its_release(
    tmp_path: Path, machine: Machine
) -> None:
    repository_dir = engine_repository(tmp_path / "mock")

    with forge_serve(repository_dir, "--gpus", "all") as (serve, document):
        view_dir = next((machine.dir / "views").glob("*/models"))
        shown = (view_dir / "tensorrt_llm" / "config.pbtxt").read_text()
        answer = TritonHttp(str(document["http"])).generate(
            "ensemble", {"text_input": "hello", "max_tokens": 3}
        )
        serve.send_signal(signal.SIGTERM)
        _, stderr = serve.communicate(timeout=20)

    assert serve.returncode == 0
    assert stderr.startswith("Triton comes from docker: model tensorrt_llm needs the tensorrtllm")
    assert answer.text == "hellofgh"
    assert '"/models/tensorrt_llm/1/engine"' in shown
    assert machine.containers == {}


def ranked_repository(folder: Path, kind: str) -> Path:
    """Return a mock with an engine of two ranks: TensorRT's, or the LLM API's."""
    if kind == "engine":
        return engine_repository(folder, ranks=2)
    build_mock_repository(folder)
    (folder / "tensorrt_llm" / "1" / "model.yaml").write_text("tensor_parallel_size: 2\n")
    return folder


def ranks_in(machine: Machine) -> dict[int | None, int]:
    _, members = the_container(machine)
    return {rank_of(pid): pid for pid in members if is_server(pid)}


@pytest.mark.parametrize("kind", ["engine", "llmapi"])
def test_two_ranks_are_started_inside_and_end_with_forge(
    tmp_path: Path, machine: Machine, kind: str
) -> None:
    flags = (*DOCKER, "--gpus", "0,1")
    with forge_serve(ranked_repository(tmp_path / "mock", kind), *flags) as (serve, document):
        _, members = the_container(machine)
        servers = ranks_in(machine)
        answer = TritonHttp(str(document["http"])).generate(
            "ensemble", {"text_input": "hello", "max_tokens": 3}
        )
        second = rank_log_path(Path(str(document["log"])), 1).read_text()
        serve.send_signal(signal.SIGTERM)
        _, stderr = serve.communicate(timeout=30)

    assert serve.returncode == 0, stderr
    assert document["world_size"] == 2
    assert set(servers) == {0, 1}
    assert answer.text == "hellofgh"
    assert "successfully loaded 'tensorrt_llm'" in second
    assert "ensemble" not in second
    assert not any(map(is_running, members))
    assert machine.containers == {}


def test_a_rank_that_is_killed_inside_is_named(tmp_path: Path, machine: Machine) -> None:
    flags = (*DOCKER, "--gpus", "0,1")
    with forge_serve(ranked_repository(tmp_path / "mock", "engine"), *flags) as (serve, _):
        _, members = the_container(machine)
        os.kill(ranks_in(machine)[1], signal.SIGKILL)
        _, stderr = serve.communicate(timeout=30)

    assert serve.returncode == 7
    assert "error: rank 1 of 2, which served mock, ended with signal SIGKILL\n" in stderr
    assert not any(map(is_running, members))
    assert machine.containers == {}
