"""The command line of tritonserver."""

from __future__ import annotations

from pathlib import Path

from trtllm_forge.triton.launch.argv import Ports, TritonStart, triton_argv
from trtllm_forge.triton.launch.locate import Origin, TritonInstallation


def argv(origin: Origin, backend_dir: Path | None) -> tuple[str, ...]:
    installation = TritonInstallation(
        executable=Path("/opt/tritonserver/bin/tritonserver"),
        origin=origin,
        label="a Triton",
        backend_dir=backend_dir,
        env={},
    )
    start = TritonStart(
        installation=installation,
        repository_dir=Path("/srv/mock"),
        host="127.0.0.1",
        ports=Ports(http=8000, grpc=8001, metrics=8002),
        shm_prefix="forge_1_",
        control_key="k1",
        exit_timeout_s=5,
    )
    return triton_argv(start)


COMMON = (
    "/opt/tritonserver/bin/tritonserver",
    "--model-repository=/srv/mock",
    "--exit-timeout-secs=5",
    "--grpc-port=8001",
    "--http-port=8000",
    "--metrics-port=8002",
    "--disable-auto-complete-config",
    "--backend-config=python,shm-region-prefix-name=forge_1_",
    "--grpc-address=127.0.0.1",
    "--http-address=127.0.0.1",
    "--metrics-address=127.0.0.1",
    "--model-control-mode=explicit",
    "--load-model=*",
    "--http-restricted-api=model-repository,shared-memory,trace,logging:forge-control-key=k1",
    "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:forge-control-key=k1",
    "--log-format=ISO8601",
)


def test_an_image_is_started_with_its_own_backends() -> None:
    assert argv("image", None) == COMMON


def test_the_wheel_is_started_with_the_assembled_backends() -> None:
    assert argv("wheel", Path("/cache/backends")) == (
        *COMMON,
        "--backend-directory=/cache/backends",
        "--allow-gpu-metrics=false",
    )
