"""Describes who can reach what when a server listens beyond the loopback device."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtllm_forge.triton.client.tls import GrpcTls
    from trtllm_forge.triton.launch.argv import Ports

_EVERY_ADDRESS = ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposure_warning(host: str, ports: Ports, tls: GrpcTls | None) -> str | None:
    """Return the warning for a server that other machines can reach, else None."""
    if is_loopback(host):
        return None
    where = "every address of this machine" if host in _EVERY_ADDRESS else host
    grpc = f"gRPC ({ports.grpc}) is encrypted" if tls else f"gRPC ({ports.grpc}) in plain text"
    mutual = ", only for clients with a certificate" if tls and tls.ca_path else ""
    return (
        f"this server listens on {where}, and Triton does not authenticate clients\n"
        "  open to every client: inference, health, metadata, configuration, statistics, "
        "metrics\n"
        "  needs the key of this start: model control, shared memory, tracing, logging\n"
        f"  on the wire: HTTP ({ports.http}) and metrics ({ports.metrics}) in plain text; "
        f"{grpc}{mutual}\n"
        "  protect it: serve on 127.0.0.1 behind a proxy with TLS and authentication, "
        "or use a firewall"
    )
