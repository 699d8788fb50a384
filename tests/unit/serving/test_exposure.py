"""Who is told what about a server that others can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtllm_forge.serving.plan.exposure import exposure_warning
from trtllm_forge.triton.client.tls import GrpcTls
from trtllm_forge.triton.launch.argv import Ports

PORTS = Ports(http=8000, grpc=8001, metrics=8002)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_the_loopback_device_is_nothing_to_tell_of(host: str) -> None:
    assert exposure_warning(host, PORTS, None) is None


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("0.0.0.0", "every address of this machine"),
        ("::", "every address of this machine"),
        ("192.0.2.7", "192.0.2.7"),
        ("gpu1", "gpu1"),
    ],
)
def test_a_wider_address_is_told_with_what_is_open_and_what_is_not(host: str, where: str) -> None:
    assert exposure_warning(host, PORTS, None) == (
        f"this server listens on {where}, and Triton does not authenticate clients\n"
        "  open to every client: inference, health, metadata, configuration, statistics, "
        "metrics\n"
        "  needs the key of this start: model control, shared memory, tracing, logging\n"
        "  on the wire: HTTP (8000) and metrics (8002) in plain text; gRPC (8001) in plain text\n"
        "  protect it: serve on 127.0.0.1 behind a proxy with TLS and authentication, "
        "or use a firewall"
    )


@pytest.mark.parametrize(
    ("ca_path", "told"),
    [
        (None, "gRPC (8001) is encrypted\n"),
        (Path("ca"), "gRPC (8001) is encrypted, only for clients with a certificate\n"),
    ],
    ids=["tls", "mutual"],
)
def test_encrypted_grpc_is_told(ca_path: Path | None, told: str) -> None:
    tls = GrpcTls(cert_path=Path("c"), key_path=Path("k"), ca_path=ca_path)

    assert told in str(exposure_warning("0.0.0.0", PORTS, tls))
