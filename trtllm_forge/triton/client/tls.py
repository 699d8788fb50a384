"""TLS of Triton's gRPC service: the files it is given, looked at first, and who trusts it.

Triton reads the files when it starts, and says little about one that is wrong. So a handshake in
memory, between the two ends as they would be, finds what is wrong before. The HTTP service of
Triton 2.51 has no TLS.
"""

from __future__ import annotations

import re
import shlex
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trtllm_forge.errors import ConfigError, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUNDS = 10
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NO_PASSPHRASE = "none"


@dataclass(frozen=True, kw_only=True)
class GrpcTls:
    """The files of a server.

    Attributes:
        cert_path: Its certificate, with those between it and the authority behind it.
        key_path: The certificate's private key, without a passphrase.
        ca_path: The authorities of clients' certificates; with it, every client has to have one.
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
    """What forge's own clients hold a server to, and show to it.

    Attributes:
        certificate: The server's certificate as it was when it started, in PEM.
        name: A name that it is for, whatever address it is reached by.
        cert_path: The certificate that a client shows, where clients need one.
        key_path: Its key.
        can_call: Whether the server takes calls of forge's at all.
    """

    certificate: str
    name: str
    cert_path: str | None = None
    key_path: str | None = None
    can_call: bool = True

    def credentials(self) -> Any:
        """Return it for a gRPC channel.

        Raises:
            ConfigError: A file of the client's certificate cannot be read.
        """
        import grpc  # type: ignore[import-untyped]

        pair = [_read(Path(path), "") for path in (self.key_path, self.cert_path) if path]
        key, chain = pair or (None, None)
        return grpc.ssl_channel_credentials(
            self.certificate.encode(),
            None if key is None else key.encode(),
            None if chain is None else chain.encode(),
        )

    def channel_options(self) -> list[tuple[str, Any]]:
        """Return the options of that channel."""
        return [("grpc.ssl_target_name_override", self.name)]


def grpc_tls(cert: str | None, key: str | None, ca: str | None) -> GrpcTls | None:
    """Return the files as given, whole, or None where there are none."""
    if cert is None or key is None:
        return None
    return GrpcTls(
        cert_path=Path(cert).expanduser().absolute(),
        key_path=Path(key).expanduser().absolute(),
        ca_path=None if ca is None else Path(ca).expanduser().absolute(),
    )


def check_tls(tls: GrpcTls) -> GrpcTrust:
    """Return what forge's clients trust, of files with which a server can be reached.

    Raises:
        ConfigError: A file is not there, is not what it should be, or does not fit another.
    """
    text = _pem(tls.cert_path, "CERTIFICATE-----", "certificate", "--grpc-tls-cert")
    # What stands around them may be anything, in any language.
    certificate = "".join(f"{block}\n" for block in _CERTIFICATE.findall(text))
    key = _pem(tls.key_path, "PRIVATE KEY-----", "private key", "--grpc-tls-key")
    if "ENCRYPTED" in key:
        what = f"{tls.key_path} is encrypted"
        hint = f"openssl pkey -in {shlex.quote(str(tls.key_path))} -out plain.key"
        raise ConfigError(what, why="Triton reads a key without a passphrase alone", hint=hint)
    server = _server_context(tls)
    client = _client_context(certificate)
    try:
        names = _handshake(server, client)
    except ssl.SSLError as error:
        _refuse(tls, error)
    name = _name(names)
    if tls.ca_path is None:
        return GrpcTrust(certificate=certificate, name=name)
    _require_authorities(server, tls.ca_path)
    # Clients of forge's own show the server's certificate, where that will do.
    client.load_cert_chain(tls.cert_path, tls.key_path, _NO_PASSPHRASE)
    try:
        _handshake(server, client)
    except ssl.SSLError:
        return GrpcTrust(certificate=certificate, name=name, can_call=False)
    return GrpcTrust(
        certificate=certificate,
        name=name,
        cert_path=str(tls.cert_path),
        key_path=str(tls.key_path),
    )


def _server_context(tls: GrpcTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.cert_path, tls.key_path, _NO_PASSPHRASE)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{tls.key_path} is not the key of {tls.cert_path}"
            raise ConfigError(what, why="their public keys differ") from error
        what = f"{tls.cert_path} or {tls.key_path} cannot be read as PEM"
        raise ConfigError(what, why=str(error.reason)) from error
    return context


def _client_context(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # The very certificate is trusted, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def _require_authorities(server: ssl.SSLContext, ca_path: Path) -> None:
    """Have the server ask for certificates of these authorities."""
    _pem(ca_path, "CERTIFICATE-----", "certificate", "--grpc-tls-ca")
    try:
        server.load_verify_locations(ca_path)
    except ssl.SSLError as error:
        what = f"{ca_path} cannot be read as PEM"
        raise ConfigError(what, why=str(error.reason)) from error
    server.verify_mode = ssl.CERT_REQUIRED
    ends = [str(entry["notAfter"]) for entry in server.get_ca_certs()]
    if not ends:
        what = f"{ca_path} holds no certificate of an authority"
        raise ConfigError(what, why="clients' certificates are held to it (--grpc-tls-ca)")
    if all(ssl.cert_time_to_seconds(end) < time.time() for end in ends):
        what = f"{ca_path} has expired"
        raise ConfigError(what, why=f"it was valid until {ends[0]}")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any]:
    """Return what the client has read in the server's certificate.

    Raises:
        ssl.SSLError: One does not take the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server)
    ends = (caller, server.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_ROUNDS):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            break
    return caller.getpeercert() or {}


def _refuse(tls: GrpcTls, error: ssl.SSLError) -> NoReturn:
    shown = shlex.quote(str(tls.cert_path))
    why = getattr(error, "verify_message", "") or str(error.reason)
    what = f"no client would take {tls.cert_path}"
    hint = f"openssl x509 -noout -dates -purpose -in {shown}"
    raise ConfigError(what, why=why, hint=hint) from error


def _name(names: Mapping[str, Any]) -> str:
    """Return a name that a certificate is for; an authority's wildcard stands for any word."""
    found = [value for _, value in names.get("subjectAltName", ())]
    found += [v for part in names.get("subject", ()) for k, v in part if k == "commonName"]
    return str(found[0]).replace("*", "forge") if found else ""


def _pem(path: Path, mark: str, kind: str, flag: str) -> str:
    text = _read(path, flag)
    if mark not in text:
        what = f"{path} holds no {kind}"
        raise ConfigError(what, why=f"{flag} is wanted in PEM")
    return text


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        what = f"{path} cannot be read"
        why = f"{flag + ': ' if flag else ''}{reason_of(error)}"
        raise ConfigError(what, why=why) from error
