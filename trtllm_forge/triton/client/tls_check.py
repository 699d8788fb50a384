"""Checks the TLS files of a gRPC service before Triton starts, by a handshake in memory.

Triton's own message about a wrong file says little.
"""

from __future__ import annotations

import re
import shlex
import ssl
import time
from typing import TYPE_CHECKING, Any, NoReturn

from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.client.tls import GrpcTls, GrpcTrust, read_pem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ROUNDS = 10
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NO_PASSPHRASE = "none"


def check_tls(tls: GrpcTls) -> GrpcTrust:
    """Return how forge's clients verify a server with these files, after checking them.

    Raises:
        ConfigError: A file is missing, of the wrong kind, or does not match another one.
    """
    text = _pem(tls.cert_path, "CERTIFICATE-----", "certificate", "--grpc-tls-cert")
    # The text around the blocks may be anything, in any language.
    certificate = "".join(f"{block}\n" for block in _CERTIFICATE.findall(text))
    key = _pem(tls.key_path, "PRIVATE KEY-----", "private key", "--grpc-tls-key")
    if "ENCRYPTED" in key:
        what = f"{tls.key_path} is encrypted"
        hint = f"openssl pkey -in {shlex.quote(str(tls.key_path))} -out plain.key"
        raise ConfigError(what, why="Triton reads only keys without a passphrase", hint=hint)
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
    # forge's own clients present the server's certificate if that is accepted.
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
    # This exact certificate is trusted, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def _require_authorities(server: ssl.SSLContext, ca_path: Path) -> None:
    """Make the server request client certificates of these authorities."""
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
        raise ConfigError(what, why="clients' certificates are checked against it (--grpc-tls-ca)")
    if all(ssl.cert_time_to_seconds(end) < time.time() for end in ends):
        what = f"{ca_path} has expired"
        raise ConfigError(what, why=f"it was valid until {ends[0]}")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any]:
    """Return the server's certificate as the client read it.

    Raises:
        ssl.SSLError: One side rejects the other.
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
    what = f"no client would accept {tls.cert_path}"
    hint = f"openssl x509 -noout -dates -purpose -in {shown}"
    raise ConfigError(what, why=why, hint=hint) from error


def _name(names: Mapping[str, Any]) -> str:
    """Return a name in a certificate, with any word for a wildcard."""
    found = [value for _, value in names.get("subjectAltName", ())]
    found += [v for part in names.get("subject", ()) for k, v in part if k == "commonName"]
    return str(found[0]).replace("*", "forge") if found else ""


def _pem(path: Path, mark: str, kind: str, flag: str) -> str:
    text = read_pem(path, flag)
    if mark not in text:
        what = f"{path} holds no {kind}"
        raise ConfigError(what, why=f"{flag} must be a PEM file")
    return text
