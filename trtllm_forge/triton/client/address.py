"""Where a server is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.files.private import read_key
from trtllm_forge.triton.repository.names import FRONT_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.triton.client.tls import GrpcTrust

CONTROL_HEADER = "forge-control-key"
"""The header, over HTTP, that opens what a server of forge's restricts."""


@dataclass(frozen=True, kw_only=True)
class ServerUrls:
    """Where a server answers; ``grpc`` and ``metrics`` may be unknown.

    Attributes:
        http: Scheme, host and port.
        grpc: Host and port.
        metrics: The whole address.
        key_path: The file with the key to what it restricts.
        grpc_trust: What gRPC clients hold it to, where that is encrypted.
    """

    http: str
    grpc: str | None = None
    metrics: str | None = None
    key_path: Path | None = None
    grpc_trust: GrpcTrust | None = None

    @property
    def own_grpc(self) -> str | None:
        """Return host and port of gRPC, where forge's own clients are let in."""
        return self.grpc if self.grpc_trust is None or self.grpc_trust.can_call else None

    @property
    def control_key(self) -> str | None:
        """Return the key to what it restricts, where it runs and is this user's."""
        return read_key(self.key_path)


@dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """A server to talk to; one given by its URL alone has no known repository."""

    urls: ServerUrls
    repository_dir: Path | None = None
    front: str = FRONT_MODEL
