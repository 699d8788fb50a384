"""TLS of Triton's gRPC service: its files, and how clients verify it.

The HTTP service of Triton 2.51 has no TLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_forge.errors import ConfigError, reason_of


@dataclass(frozen=True, kw_only=True)
class GrpcTls:
    """The TLS files of a server.

    Attributes:
        cert_path: Its certificate, followed by the intermediate ones.
        key_path: The certificate's private key, without a passphrase.
        ca_path: The authorities of client certificates; if set, every client needs one.
    """

    cert_path: Path
    key_path: Path
    ca_path: Path | None = None

    def argv(self) -> tuple[str, ...]:
        """Return Triton's options."""
        server = (f"--grpc-server-cert={self.cert_path}", f"--grpc-server-key={self.key_path}")
        if self.ca_path is None:
            return ("--grpc-use-ssl=true", *server)
        return ("--grpc-use-ssl-mutual=true", *server, f"--grpc-root-cert={self.ca_path}")


@dataclass(frozen=True, kw_only=True)
class GrpcTrust:
    """How forge's own clients verify a server and identify themselves.

    Attributes:
        certificate: The server's certificate as it was when it started, in PEM.
        name: A name in the certificate, used for any address of the server.
        cert_path: The client certificate, if clients need one.
        key_path: Its key.
        can_call: Whether the server accepts calls from forge at all.
    """

    certificate: str
    name: str
    cert_path: str | None = None
    key_path: str | None = None
    can_call: bool = True

    def credentials(self) -> Any:
        """Return the credentials of a gRPC channel.

        Raises:
            ConfigError: A file of the client's certificate cannot be read.
        """
        import grpc  # type: ignore[import-untyped]

        pair = [read_pem(Path(path)) for path in (self.key_path, self.cert_path) if path]
        key, chain = pair or (None, None)
        return grpc.ssl_channel_credentials(
            self.certificate.encode(),
            None if key is None else key.encode(),
            None if chain is None else chain.encode(),
        )

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return the options of the channel."""
        return [("grpc.ssl_target_name_override", self.name)]


def grpc_tls(cert: str | None, key: str | None, ca: str | None) -> GrpcTls | None:
    """Return the complete set of files, or None without TLS."""
    if cert is None or key is None:
        return None
    return GrpcTls(
        cert_path=Path(cert).expanduser().absolute(),
        key_path=Path(key).expanduser().absolute(),
        ca_path=None if ca is None else Path(ca).expanduser().absolute(),
    )


def read_pem(path: Path, flag: str = "") -> str:
    """Return the text of a file named by ``flag``, if any.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        what = f"{path} cannot be read"
        why = f"{flag + ': ' if flag else ''}{reason_of(error)}"
        raise ConfigError(what, why=why) from error
