"""Files for TLS are looked at before a server is started with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.certificates import Certificate, encrypted, self_signed, signed_by
from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.client.tls import GrpcTls
from trtllm_forge.triton.client.tls_check import check_tls

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("authority"), "authority.example")


def tls(pair: Certificate, ca_path: Path | None = None) -> GrpcTls:
    return GrpcTls(cert_path=pair.cert_path, key_path=pair.key_path, ca_path=ca_path)


def refused(files: GrpcTls) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check_tls(files)
    return caught.value


def test_a_server_is_known_by_its_very_certificate(tmp_path: Path, authority: Certificate) -> None:
    own = check_tls(tls(self_signed(tmp_path, "triton.example")))
    signed = check_tls(tls(signed_by(authority, tmp_path, "*.coder.example")))

    assert own.certificate == (tmp_path / "triton.example.crt").read_text()
    assert (own.name, own.cert_path, own.can_call) == ("triton.example", None, True)
    assert signed.name == "forge.coder.example"


def test_what_stands_around_a_certificate_may_be_in_any_language(tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "triton.example")
    block = pair.cert_path.read_text()
    pair.cert_path.write_text(f"Schlüssel für Zürich\n{block}", encoding="utf-8")

    assert check_tls(tls(pair)).certificate == block


def test_forge_shows_the_servers_certificate_where_clients_need_one(
    tmp_path: Path, authority: Certificate
) -> None:
    pair = signed_by(authority, tmp_path, "triton.example")

    trust = check_tls(tls(pair, authority.cert_path))

    assert (trust.cert_path, trust.key_path) == (str(pair.cert_path), str(pair.key_path))
    assert trust.can_call


@pytest.mark.parametrize("case", ["another-authority", "for-servers-alone"])
def test_forge_has_no_certificate_where_the_servers_is_not_for_clients(
    case: str, tmp_path: Path, authority: Certificate
) -> None:
    if case == "another-authority":
        pair = self_signed(tmp_path, "triton.example")
    else:
        pair = signed_by(
            authority, tmp_path, "triton.example", extensions="extendedKeyUsage=serverAuth"
        )

    trust = check_tls(tls(pair, authority.cert_path))

    assert (trust.can_call, trust.cert_path) == (False, None)


def test_a_file_that_is_not_there_is_named_with_its_flag(tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "triton.example")
    no_cert = Certificate(cert_path=tmp_path / "no.crt", key_path=pair.key_path)
    no_key = Certificate(cert_path=pair.cert_path, key_path=tmp_path / "no.key")

    errors = [
        refused(tls(no_cert)),
        refused(tls(no_key)),
        refused(tls(pair, tmp_path / "no.ca")),
    ]

    assert [(error.what, error.why) for error in errors] == [
        (f"{tmp_path}/no.crt cannot be read", "--grpc-tls-cert: no such file or directory"),
        (f"{tmp_path}/no.key cannot be read", "--grpc-tls-key: no such file or directory"),
        (f"{tmp_path}/no.ca cannot be read", "--grpc-tls-ca: no such file or directory"),
    ]


def test_files_that_are_taken_for_each_other_are_told_apart(tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "triton.example")
    swapped = Certificate(cert_path=pair.key_path, key_path=pair.cert_path)
    key_twice = Certificate(cert_path=pair.cert_path, key_path=pair.cert_path)

    assert refused(tls(swapped)).what == f"{pair.key_path} holds no certificate"
    assert refused(tls(key_twice)).what == f"{pair.cert_path} holds no private key"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    one, other = self_signed(tmp_path, "one.example"), self_signed(tmp_path, "other.example")

    error = refused(tls(Certificate(cert_path=one.cert_path, key_path=other.key_path)))

    assert error.what == f"{other.key_path} is not the key of {one.cert_path}"
    assert error.exit_code == 2


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    pair = encrypted(self_signed(tmp_path, "triton.example"))

    error = refused(tls(pair))

    assert error.what == f"{pair.key_path} is encrypted"
    assert error.hint == f"openssl pkey -in {pair.key_path} -out plain.key"


def test_damaged_pem_is_refused(tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "triton.example")
    pair.cert_path.write_text(pair.cert_path.read_text().replace("MII", "!!!", 1))

    assert "cannot be read as PEM" in refused(tls(pair)).what


def test_a_certificate_that_has_expired_is_refused(tmp_path: Path, authority: Certificate) -> None:
    pair = signed_by(authority, tmp_path, "triton.example", days=-1)

    error = refused(tls(pair))

    assert (error.what, error.why) == (
        f"no client would accept {pair.cert_path}",
        "certificate has expired",
    )
    assert error.hint == f"openssl x509 -noout -dates -purpose -in {pair.cert_path}"


def test_a_certificate_that_is_for_clients_alone_is_refused(
    tmp_path: Path, authority: Certificate
) -> None:
    pair = signed_by(
        authority, tmp_path, "triton.example", extensions="extendedKeyUsage=clientAuth"
    )

    assert "purpose" in refused(tls(pair)).why


def test_an_authority_that_is_none_is_refused(tmp_path: Path, authority: Certificate) -> None:
    pair = signed_by(authority, tmp_path, "triton.example")

    error = refused(tls(pair, pair.cert_path))

    assert error.what == f"{pair.cert_path} holds no certificate of an authority"
