"""Certificates made on the spot with ``openssl``: of itself, or of an authority."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Found before a test changes PATH.
_OPENSSL = shutil.which("openssl") or "openssl"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate and its key, in PEM."""

    cert_path: Path
    key_path: Path


def self_signed(folder: Path, name: str) -> Certificate:
    """Return a certificate that is its own authority, for a DNS name."""
    made = _paths(folder, name)
    _run(
        *("req", "-x509", *_KEY, "-days", "3650", "-subj", f"/CN={name}"),
        *("-addext", f"subjectAltName=DNS:{name}"),
        *("-keyout", str(made.key_path), "-out", str(made.cert_path)),
    )
    return made


def signed_by(
    authority: Certificate, folder: Path, name: str, *, days: int = 3650, extensions: str = ""
) -> Certificate:
    """Return a certificate of an authority; a negative number of ``days`` has expired."""
    made = _paths(folder, name)
    request_path, extensions_path = folder / f"{name}.csr", folder / f"{name}.ext"
    extensions_path.write_text(f"subjectAltName=DNS:{name}\n{extensions}\n")
    _run(
        *("req", *_KEY, "-subj", f"/CN={name}", "-keyout", str(made.key_path)),
        *("-out", str(request_path)),
    )
    _run(
        *("x509", "-req", "-in", str(request_path), "-days", str(days), "-set_serial", "7"),
        *("-CA", str(authority.cert_path), "-CAkey", str(authority.key_path)),
        *("-extfile", str(extensions_path), "-out", str(made.cert_path)),
    )
    return made


def encrypted(certificate: Certificate) -> Certificate:
    """Return the same with a key that asks for a passphrase."""
    key_path = certificate.key_path.with_suffix(".encrypted.key")
    _run(
        *("pkey", "-in", str(certificate.key_path), "-aes256", "-passout", "pass:secret"),
        *("-out", str(key_path)),
    )
    return Certificate(cert_path=certificate.cert_path, key_path=key_path)


def _paths(folder: Path, name: str) -> Certificate:
    folder.mkdir(parents=True, exist_ok=True)
    return Certificate(cert_path=folder / f"{name}.crt", key_path=folder / f"{name}.key")


def _run(*arguments: str) -> None:
    subprocess.run([_OPENSSL, *arguments], check=True, capture_output=True)
