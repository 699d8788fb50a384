"""A real Triton on mock models: served, probed, asked, stopped, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.ports import free_port, port_flags
from tests.process.fake_triton import build_repository
from tests.process.recording import RecordingReporter, eventually, is_running
from tests.serving import options_for
from tests.triton.mock_repository import MODELS, Fault, build_mock_repository
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.evaluation.probe import probe_server
from trtllm_forge.gateway.completion import complete
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.serving.records.find import LOCK_NAME
from trtllm_forge.serving.server.serve import start_server
from trtllm_forge.triton.client.address import ServerUrls
from trtllm_forge.triton.client.http import TritonAnswerError, TritonHttp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.serving.server.running_server import RunningServer

pytestmark = pytest.mark.triton

PROBES = ["live", "ready", "metadata", "text", "streaming", "batching", "cancel"]
CHECKOUT_DIR = Path(__file__).parent.parent.parent


@contextmanager
def serving(repository_dir: Path) -> Iterator[RunningServer]:
    """Give a real Triton that serves a repository on free ports."""
    options = options_for(
        repository_dir,
        http_port=free_port("127.0.0.1"),
        grpc_port=free_port("127.0.0.1"),
        metrics_port=free_port("127.0.0.1"),
    )
    with start_server(options, read_settings(), RecordingReporter()) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One Triton with models that are right, shared by the tests that only ask."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_STATE_DIR", str(folder / "state"))
        patch.setenv("FORGE_CACHE_DIR", str(folder / "cache"))
        with serving(build_mock_repository(folder / "mock")) as running:
            yield running


def shm_regions() -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").glob(f"forge_{os.getpid()}_*"))


def test_all_models_are_listed_as_ready(server: RunningServer) -> None:
    assert [(m.name, m.state) for m in server.models] == [(n, "READY") for n in sorted(MODELS)]


def test_every_probe_passes_on_models_that_are_right(server: RunningServer) -> None:
    results = probe_server(server.urls, server.plan.repository_dir, RecordingReporter())

    assert [(r.name, r.ok) for r in results] == [(name, True) for name in PROBES]


def test_probes_do_without_grpc_and_without_a_repository(server: RunningServer) -> None:
    results = probe_server(ServerUrls(http=server.urls.http), None, RecordingReporter())

    assert [r.name for r in results if r.ok] == PROBES
    assert results[-1].detail.endswith("after a cancel by a closed HTTP connection")


def test_metadata_fails_on_a_repository_that_is_not_the_served_one(
    server: RunningServer, tmp_path: Path
) -> None:
    other = build_mock_repository(tmp_path / "other")
    config_path = other / "postprocessing" / "config.pbtxt"
    config_path.write_text(config_path.read_text().replace("TYPE_INT32", "TYPE_INT64", 1))

    results = probe_server(server.urls, other, RecordingReporter())

    assert [r.detail for r in results if not r.ok] == [
        "wanted input of postprocessing TOKENS_BATCH INT64[-1,-1,-1], "
        "found TOKENS_BATCH INT32[-1,-1,-1]"
    ]


@pytest.mark.parametrize(
    ("fault", "failing", "detail"),
    [
        ("serial", ["batching"], "wanted the first token of a short request before a long one"),
        ("deaf_to_cancel", ["cancel"], "wanted the engine to stop early after a cancel by gRPC"),
        ("one_chunk", ["streaming", "batching", "cancel"], "wanted at least 2 pieces of 32 tokens"),
        ("other_text_when_streaming", ["streaming"], "wanted the text of the answer in one piece"),
    ],
)
def test_a_probe_fails_where_the_engine_is_wrong(
    tmp_path: Path, fault: Fault, failing: list[str], detail: str
) -> None:
    with serving(build_mock_repository(tmp_path / "mock", fault=fault)) as server:
        results = probe_server(server.urls, server.plan.repository_dir, RecordingReporter())

    failed = [result for result in results if not result.ok]
    assert [result.name for result in failed] == failing
    assert failed[0].detail.startswith(detail)


def test_a_completion_of_full_length_says_so(server: RunningServer) -> None:
    pieces: list[str] = []

    completion = complete(server.urls, "hello", max_tokens=5, on_text=pieces.append)

    assert (completion.text, completion.finish_reason) == ("fghij", "length")
    assert pieces == ["f", "g", "h", "i", "j"]
    assert vars(completion.usage) == {"prompt_tokens": 5, "completion_tokens": 5}
    assert completion.timing.ttft_ms is not None
    assert completion.timing.ttft_ms <= completion.timing.total_ms


def test_a_completion_that_the_model_ended_says_so(server: RunningServer) -> None:
    completion = complete(server.urls, "hello", max_tokens=100)

    assert completion.finish_reason == "stop"
    assert completion.usage.completion_tokens == len(completion.text) == 40


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(server: RunningServer) -> None:
    completion = complete(server.urls, "hello", max_tokens=100, stop=("i",))

    assert (completion.text, completion.finish_reason) == ("fgh", "stop")


def test_an_error_of_the_models_reaches_the_user_as_it_is(server: RunningServer) -> None:
    with pytest.raises(TritonAnswerError, match="5 and 900 tokens, at most 600 fit") as caught:
        complete(server.urls, "hello", max_tokens=900)

    assert caught.value.exit_code == 8


def test_an_unknown_model_is_an_answer_and_not_a_crash(server: RunningServer) -> None:
    with pytest.raises(TritonAnswerError, match="unknown model"):
        TritonHttp(server.urls.http).model_metadata("nothing")


def test_a_suffix_without_fim_tokens_is_refused(server: RunningServer) -> None:
    result = CliRunner().invoke(
        app, ["complete", "a b", "--suffix", "c", "--http", server.urls.http]
    )

    assert result.exit_code == 2
    assert result.stderr == (
        "error: --suffix needs the served repository, whose tokenizer tells how FIM prompts look\n"
        "  why:  the server at this address was not started by this user's forge\n"
        "  try:  forge complete 'a b'\n"
    )


def test_complete_prints_one_document(server: RunningServer) -> None:
    arguments = ["complete", "hello", "--max-tokens", "3", "--json", "--http", server.urls.http]

    document = json.loads(CliRunner().invoke(app, arguments).stdout)

    assert document.pop("timing").keys() == {"ttft_ms", "total_ms"}
    assert document == {
        "schema": 1,
        "text": "fgh",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
    }


def test_complete_streams_the_text_and_a_line_end(server: RunningServer) -> None:
    arguments = ["complete", "hello", "--max-tokens", "3", "--stream", "--http", server.urls.http]

    assert CliRunner().invoke(app, arguments).stdout == "fgh\n"


def test_probe_exits_with_8_and_one_document_when_a_probe_fails(tmp_path: Path) -> None:
    with serving(build_mock_repository(tmp_path / "mock", fault="other_text_when_streaming")):
        result = CliRunner().invoke(app, ["probe", "--json"])

    assert result.exit_code == 8
    probes = json.loads(result.stdout)["probes"]
    assert [probe["name"] for probe in probes if not probe["ok"]] == ["streaming"]


def test_stopping_leaves_no_process_no_shared_memory_and_no_record(tmp_path: Path) -> None:
    before = shm_regions()
    with serving(build_mock_repository(tmp_path / "mock")) as server:
        members = living_members(server.pid)
        assert len(members) == 1 + 3  # Triton and a stub for each Python model
        assert len(shm_regions()) == len(before) + 3

    assert not any(map(is_running, members))
    assert shm_regions() == before
    servers_dir = read_settings().state_dir / "servers"
    assert [path.name for path in servers_dir.iterdir()] == [LOCK_NAME]


def test_triton_killed_from_outside_leaves_no_stub_and_ends_forge_with_7(tmp_path: Path) -> None:
    repository_dir = build_mock_repository(tmp_path / "mock")
    with forge_serve(repository_dir) as (serve, document):
        pid = int(str(document["pid"]))
        members = living_members(pid)
        os.kill(pid, signal.SIGKILL)
        _, stderr = serve.communicate(timeout=20)

    assert serve.returncode == 7
    assert f"error: Triton (process {pid}), which served mock, ended with signal SIGKILL" in stderr
    assert not any(map(is_running, members))
    assert list(Path("/dev/shm").glob(f"forge_{serve.pid}_*")) == []


def test_a_killed_forge_takes_triton_and_its_stubs_along(tmp_path: Path) -> None:
    with forge_serve(build_mock_repository(tmp_path / "mock")) as (serve, document):
        members = living_members(int(str(document["pid"])))
        serve.kill()
        serve.wait(timeout=20)

        assert len(members) == 4
        assert eventually(lambda: not any(map(is_running, members)), within_s=30)
        regions = Path("/dev/shm")
        assert eventually(lambda: not list(regions.glob(f"forge_{serve.pid}_*")))


@contextmanager
def forge_serve(
    repository_dir: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """Give a real ``forge serve --json`` and its one document."""
    ports = port_flags()
    serve = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "trtllm_forge",
            "serve",
            "--json",
            str(repository_dir),
            *ports,
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT_DIR)},
    )
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


def test_a_model_that_does_not_load_is_told_with_its_own_error(tmp_path: Path) -> None:
    repository_dir = build_mock_repository(tmp_path / "mock", fault="load")

    result = CliRunner().invoke(app, ["serve", str(repository_dir)])

    error, why, log = result.stderr.splitlines()[-3:]
    assert result.exit_code == 7
    assert error == (
        "error: model tensorrt_llm did not load: "
        "ValueError: engine.json names 3 layers, the engine has 2"
    )
    assert why.startswith(f"  why:  {repository_dir}/tensorrt_llm/1/model.py:")
    assert why.endswith(" in initialize")
    assert log.startswith("  log:  ")


def test_an_engine_repository_is_refused_by_the_wheels_triton(tmp_path: Path) -> None:
    repository_dir = build_repository(tmp_path / "mock", backend="tensorrtllm")

    result = CliRunner().invoke(app, ["serve", str(repository_dir), "--triton", "wheel"])

    assert result.exit_code == 3
    assert result.stderr.endswith(f"  try:  forge serve {repository_dir} --triton docker\n")
    assert result.stderr.startswith(
        "error: model tensorrt_llm needs Triton's tensorrtllm backend, which is not installed\n"
        "  why:  the Triton of nvidia-pytriton "
    )
