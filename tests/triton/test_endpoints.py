"""Which endpoints of a real Triton are open, over HTTP and gRPC, in plain text and with TLS."""

from __future__ import annotations

import json
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped]
import httpx
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from typer.testing import CliRunner

from tests.certificates import self_signed, signed_by
from tests.ports import free_port
from tests.process.recording import RecordingReporter
from tests.serving import options_for
from tests.triton.mock_repository import build_mock_repository
from tests.triton.ranks import serve_ranks
from tests.triton.test_launch import forge_serve, server
from trtllm_forge.cli.app import app
from trtllm_forge.config.settings import read_settings
from trtllm_forge.evaluation.probe import probe_server
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.serving.records.find import running_servers
from trtllm_forge.serving.server.serve import start_server
from trtllm_forge.triton.client.address import CONTROL_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.twin import TwinWorkshop
    from trtllm_forge.serving.server.running_server import RunningServer

__all__ = ["server"]

pytestmark = pytest.mark.triton

# Over gRPC, Triton puts its own word before the header.
GRPC_CONTROL_HEADER = f"triton-grpc-protocol-{CONTROL_HEADER}"

RESTRICTED_HTTP: dict[str, tuple[str, object]] = {
    "/v2/repository/index": ("POST", None),
    "/v2/repository/models/nothing/load": ("POST", {}),
    "/v2/repository/models/nothing/unload": ("POST", {}),
    "/v2/systemsharedmemory/status": ("GET", None),
    "/v2/systemsharedmemory/region/x/register": ("POST", {"key": "/no", "byte_size": 4}),
    "/v2/systemsharedmemory/unregister": ("POST", None),
    "/v2/cudasharedmemory/status": ("GET", None),
    "/v2/cudasharedmemory/region/x/register": ("POST", {"raw_handle": {"b64": ""}}),
    "/v2/cudasharedmemory/unregister": ("POST", None),
    "/v2/trace/setting": ("GET", None),
    "/v2/trace/setting?": ("POST", {}),
    "/v2/models/ensemble/trace/setting": ("GET", None),
    "/v2/models/ensemble/trace/setting?": ("POST", {}),
    "/v2/logging": ("GET", None),
    "/v2/logging?": ("POST", {}),
}
OPEN_HTTP: dict[str, tuple[str, object]] = {
    "/v2": ("GET", None),
    "/v2/health/live": ("GET", None),
    "/v2/health/ready": ("GET", None),
    "/v2/models/ensemble": ("GET", None),
    "/v2/models/ensemble/ready": ("GET", None),
    "/v2/models/ensemble/config": ("GET", None),
    "/v2/models/ensemble/stats": ("GET", None),
    "/v2/models/stats": ("GET", None),
    "/v2/models/ensemble/generate": ("POST", {"text_input": "hello", "max_tokens": 3}),
    "/v2/models/ensemble/generate_stream": ("POST", {"text_input": "hello", "max_tokens": 3}),
}
RESTRICTED_GRPC: dict[str, Any] = {
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="nothing"),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="nothing"),
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(
        name="x", key="/no", byte_size=4
    ),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(),
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="x"),
    "CudaSharedMemoryUnregister": service_pb2.CudaSharedMemoryUnregisterRequest(),
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "LogSettings": service_pb2.LogSettingsRequest(),
}
OPEN_GRPC: dict[str, Any] = {
    "ServerLive": service_pb2.ServerLiveRequest(),
    "ServerReady": service_pb2.ServerReadyRequest(),
    "ServerMetadata": service_pb2.ServerMetadataRequest(),
    "ModelReady": service_pb2.ModelReadyRequest(name="ensemble"),
    "ModelMetadata": service_pb2.ModelMetadataRequest(name="ensemble"),
    "ModelConfig": service_pb2.ModelConfigRequest(name="ensemble"),
    "ModelStatistics": service_pb2.ModelStatisticsRequest(name="ensemble"),
}


@contextmanager
def serving_with(repository_dir: Path, **options: Any) -> Iterator[RunningServer]:
    ports: dict[str, Any] = {
        f"{name}_port": free_port("127.0.0.1") for name in ("http", "grpc", "metrics")
    }
    chosen = options_for(repository_dir, **ports, **options)
    with start_server(chosen, read_settings(), RecordingReporter()) as running:
        yield running


def answered(server: RunningServer, path: str, key: str | None) -> tuple[int, str]:
    method, body = (RESTRICTED_HTTP | OPEN_HTTP)[path]
    headers = {CONTROL_HEADER: key} if key else {}
    url = server.urls.http + path.rstrip("?")
    answer = httpx.request(method, url, json=body, headers=headers, timeout=20)
    return answer.status_code, answer.text


def called(channel: Any, method: str, key: str | None) -> str:
    """Return what a call was answered with: the error's text, or nothing."""
    metadata = ((GRPC_CONTROL_HEADER, key),) if key else ()
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    try:
        getattr(stub, method)((RESTRICTED_GRPC | OPEN_GRPC)[method], metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        return str(error.details())
    return ""


@pytest.mark.parametrize("path", RESTRICTED_HTTP)
def test_what_changes_the_server_asks_for_the_key_over_http(
    server: RunningServer, path: str
) -> None:
    refusal = f"This API is restricted, expecting header '{CONTROL_HEADER}'"

    without, wrong = (answered(server, path, key) for key in (None, "0" * 32))
    status, text = answered(server, path, server.urls.control_key)

    assert without == wrong == (403, f'{{"error":"{refusal}"}}')
    assert status != 403
    assert refusal not in text


@pytest.mark.parametrize("path", OPEN_HTTP)
def test_what_is_asked_of_every_server_is_open_over_http(server: RunningServer, path: str) -> None:
    assert answered(server, path, None)[0] == 200


def test_metrics_are_open(server: RunningServer) -> None:
    answer = httpx.get(str(server.urls.metrics), timeout=20)

    assert answer.status_code == 200
    assert "nv_inference_count" in answer.text


@pytest.mark.parametrize("method", RESTRICTED_GRPC)
def test_what_changes_the_server_asks_for_the_key_over_grpc(
    server: RunningServer, method: str
) -> None:
    refusal = f"This protocol is restricted, expecting header '{GRPC_CONTROL_HEADER}'"

    with grpc.insecure_channel(str(server.urls.grpc)) as channel:
        without, wrong = (called(channel, method, key) for key in (None, "0" * 32))
        allowed = called(channel, method, server.urls.control_key)

    assert without == wrong == refusal
    assert "restricted" not in allowed


@pytest.mark.parametrize("method", OPEN_GRPC)
def test_what_is_asked_of_every_server_is_open_over_grpc(
    server: RunningServer, method: str
) -> None:
    with grpc.insecure_channel(str(server.urls.grpc)) as channel:
        assert called(channel, method, None) == ""


def test_the_key_is_in_its_file_and_in_no_command_line_and_no_log(server: RunningServer) -> None:
    path, key = server.urls.key_path, server.urls.control_key
    assert path is not None
    assert key is not None

    members = living_members(server.pid)
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members]
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in members]

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(members) == 4
    assert b"--http-restricted-api=" in shown[0]
    assert [text for text in (*shown, *environments) if key.encode() in text] == []
    assert key not in server.log_path.read_text()


def test_the_key_is_in_no_command_line_of_several_ranks_and_their_launcher(
    workshop: TwinWorkshop, fp16_document: dict[str, Any]
) -> None:
    with serve_ranks(workshop, Path(fp16_document["repository"]), "--world-size", "2") as run:
        document = run.wait_until_ready()
        (path,) = (run.state_dir / "keys").iterdir()
        key = path.read_bytes().strip()
        members = living_members(document["pid"])
        shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members]
        headers = {CONTROL_HEADER: key.decode()}
        url = f"{document['http']}/v2/repository/index"
        status = httpx.post(url, headers=headers, timeout=20).status_code

    assert len([text for text in shown if b"--http-restricted-api=" in text]) >= 2
    assert [text for text in shown if key in text] == []
    assert (len(key), status) == (32, 200)


def test_secrets_of_the_user_reach_no_process_of_the_server_and_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        name: f"secret-of-{name.lower()}"
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "NGC_API_KEY", "NGC_CLI_API_KEY")
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)

    with forge_serve(build_mock_repository(tmp_path / "mock"), "-v") as (serve, document):
        group = int(str(document["pid"]))
        children = Path(f"/proc/{serve.pid}/task/{serve.pid}/children").read_text().split()
        pids = {*living_members(group), *map(int, children)}
        seen = [
            Path(f"/proc/{pid}/{what}").read_bytes()
            for pid in pids
            for what in ("environ", "cmdline")
        ]
        state_dir = read_settings().state_dir
        key = running_servers(state_dir)[0].urls.control_key or ""
        seen += [path.read_bytes() for path in state_dir.rglob("*.log")]
        seen += [path.read_bytes() for path in state_dir.rglob("*.json")]
        serve.terminate()
        _, words = serve.communicate(timeout=30)

    assert len(pids) == 1 + 3 + 1  # Triton, its stubs, and forge's lifeline
    looked_for = [*secrets.values(), key]
    assert all(looked_for)
    found = [
        word for word in looked_for for text in (*seen, words.encode()) if word.encode() in text
    ]
    assert found == []
    assert "forge-control-key=CONTROL_KEY" in words


def test_encrypted_grpc_serves_forge_and_refuses_plain_text(tmp_path: Path) -> None:
    pair = self_signed(tmp_path / "tls", "triton.example")
    with serving_with(
        build_mock_repository(tmp_path / "mock"),
        grpc_tls_cert=str(pair.cert_path),
        grpc_tls_key=str(pair.key_path),
    ) as server:
        (record,) = running_servers(read_settings().state_dir)
        results = probe_server(record.urls, record.repository_dir, RecordingReporter())
        trust = record.urls.grpc_trust
        assert trust is not None
        with grpc.secure_channel(
            record.urls.grpc, trust.credentials(), options=trust.channel_options()
        ) as channel:
            allowed = called(channel, "RepositoryIndex", server.urls.control_key)
            refused = called(channel, "RepositoryIndex", None)
        with grpc.insecure_channel(record.urls.grpc) as channel:
            plain = called(channel, "ServerLive", None)
        words = "bench --protocol grpc --concurrency 1 --requests 2 --output-tokens 4 --json"
        bench = CliRunner().invoke(app, words.split())

    assert [(result.name, result.detail) for result in results if not result.ok] == []
    assert results[-1].detail.endswith("after a cancel by gRPC")
    assert (allowed, "restricted" in refused) == ("", True)
    assert plain != ""
    assert bench.exit_code == 0, bench.output
    assert json.loads(bench.stdout)["bench"]


def test_mutual_tls_takes_those_alone_whom_the_authority_has_signed(tmp_path: Path) -> None:
    authority = self_signed(tmp_path / "tls", "authority.example")
    pair = signed_by(authority, tmp_path / "tls", "triton.example")
    stranger = self_signed(tmp_path / "tls", "stranger.example")
    with serving_with(
        build_mock_repository(tmp_path / "mock"),
        grpc_tls_cert=str(pair.cert_path),
        grpc_tls_key=str(pair.key_path),
        grpc_tls_ca=str(authority.cert_path),
    ) as server:
        results = probe_server(server.urls, None, RecordingReporter())
        answers = []
        for key, cert in ((None, None), (stranger.key_path, stranger.cert_path)):
            credentials = grpc.ssl_channel_credentials(
                authority.cert_path.read_bytes(),
                key and key.read_bytes(),
                cert and cert.read_bytes(),
            )
            options = [("grpc.ssl_target_name_override", "triton.example")]
            with grpc.secure_channel(server.urls.grpc, credentials, options=options) as channel:
                answers.append(called(channel, "ServerLive", None))

    assert [(result.name, result.detail) for result in results if not result.ok] == []
    assert results[-1].detail.endswith("after a cancel by gRPC")
    assert all(answers)


def test_probes_do_without_grpc_where_forge_has_no_certificate_for_it(tmp_path: Path) -> None:
    authority = self_signed(tmp_path / "tls", "authority.example")
    pair = self_signed(tmp_path / "tls", "triton.example")
    with serving_with(
        build_mock_repository(tmp_path / "mock"),
        grpc_tls_cert=str(pair.cert_path),
        grpc_tls_key=str(pair.key_path),
        grpc_tls_ca=str(authority.cert_path),
    ) as server:
        results = probe_server(server.urls, None, RecordingReporter())

    assert [result.name for result in results if not result.ok] == []
    assert results[-1].detail.endswith("after a cancel by a closed HTTP connection")


@pytest.mark.parametrize("host", ["::1", "::", "0.0.0.0"])
def test_a_server_answers_on_every_kind_of_address(tmp_path: Path, host: str) -> None:
    with serving_with(build_mock_repository(tmp_path / "mock"), host=host) as server:
        live = httpx.get(f"{server.urls.http}/v2/health/live", timeout=20).status_code
        metrics = httpx.get(str(server.urls.metrics), timeout=20).status_code
        with grpc.insecure_channel(str(server.urls.grpc)) as channel:
            answer = called(channel, "ServerLive", None)

    assert (live, metrics, answer) == (200, 200, "")
