"""The addresses of a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.files.private import read_key
from trtllm_forge.triton.repository.names import FRONT_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.triton.client.tls import GrpcTrust

CONTROL_HEADER = "forge-control-key"
"""The HTTP header that carries the key to a forge server's restricted APIs."""


@dataclass(frozen=True, kw_only=True)
class ServerUrls:
    """The addresses of a server; ``grpc`` and ``metrics`` may be unknown.

    Attributes:
        http: Scheme, host and port.
        grpc: Host and port.
        metrics: The full URL.
        key_path: The file with the key to its restricted APIs.
        grpc_trust: How gRPC clients verify it, if gRPC is encrypted.
    """

    http: str
    grpc: str | None = None
    metrics: str | None = None
    key_path: Path | None = None
    grpc_trust: GrpcTrust | None = None

    @property
    def own_grpc(self) -> str | None:
        """Return host and port of gRPC, if it accepts forge's own clients."""
        return self.grpc if self.grpc_trust is None or self.grpc_trust.can_call else None

    @property
    def control_key(self) -> str | None:
        """Return the key to its restricted APIs, if it runs and belongs to this user."""
        return read_key(self.key_path)


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """A server to talk to; one given by its URL alone has no known repository."""

    urls: ServerUrls
    repository_dir: Path | None = None
    front: str = FRONT_MODEL
