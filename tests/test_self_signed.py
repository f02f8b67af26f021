"""The certificate for a first try: what is in it, when it is kept and when it is made again."""

from __future__ import annotations

import logging
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lb import self_signed
from tests.tls_harness import handshake, run

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ALWAYS = {"localhost", "127.0.0.1", "::1"}


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> set[str]:
    found = read(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        *found.get_values_for_type(x509.DNSName),
        *map(str, found.get_values_for_type(x509.IPAddress)),
    }


def test_what_is_made(tmp_path: Path) -> None:
    cert, key = self_signed.ensure(
        tmp_path, ["LB.example.org.", "10.0.0.9", "0.0.0.0", "::"], now=NOW
    )
    assert names(cert) == ALWAYS | {"lb.example.org", "10.0.0.9"}
    made = read(cert)
    public = made.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    assert made.not_valid_after_utc - NOW == timedelta(days=365)
    assert made.not_valid_before_utc < NOW
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca, "Firefox refuses an authority's certificate as a server's"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert {p.name for p in key.parent.iterdir()} == {cert.name, key.name}


def test_who_trusts_it_can_connect_by_every_name(tmp_path: Path) -> None:
    cert, key = self_signed.ensure(tmp_path, ["lb.example.org", "fd00::9"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cert)
    for name in (*ALWAYS, "lb.example.org", "fd00::9"):
        handshake(client, server, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server, "other.example.org")


def made_again(home: Path, *wanted: str, now: datetime = NOW) -> bool:
    """Whether asking once more made another one."""
    before = [path.read_bytes() for path in sorted((home / "tls").iterdir())]
    cert, key = self_signed.ensure(home, wanted, now=now)
    after = [path.read_bytes() for path in (key, cert)]
    assert (before == after) or not set(before) & set(after)
    return before != after


def test_it_is_kept_while_it_serves(tmp_path: Path) -> None:
    self_signed.ensure(tmp_path, ["a.example.org", "b.example.org"], now=NOW)
    assert not made_again(tmp_path, "a.example.org", "b.example.org")
    assert not made_again(tmp_path, "B.example.org", "localhost", "0.0.0.0")
    assert not made_again(tmp_path, "a.example.org", now=NOW + timedelta(days=350))


def test_it_is_made_again_in_its_last_week(tmp_path: Path) -> None:
    self_signed.ensure(tmp_path, now=NOW)
    later = NOW + timedelta(days=359)
    assert made_again(tmp_path, now=later)
    assert read(tmp_path / "tls/self-signed.pem").not_valid_after_utc > later + timedelta(days=300)


def test_further_names_are_added_to_those_it_had(tmp_path: Path) -> None:
    self_signed.ensure(tmp_path, ["a.example.org"], now=NOW)
    assert made_again(tmp_path, "b.example.org")
    wanted = ALWAYS | {"a.example.org", "b.example.org"}
    assert names(tmp_path / "tls/self-signed.pem") == wanted
    assert not made_again(tmp_path, "a.example.org")


def _garbled(cert: Path, key: Path) -> None:
    cert.write_text("hello")


def _key_garbled(cert: Path, key: Path) -> None:
    key.write_text("hello")


def _key_of_another(cert: Path, key: Path) -> None:
    _, other = self_signed.ensure(cert.parent / "other", now=NOW)
    other.rename(key)
    (cert.parent / "other/tls/self-signed.pem").unlink()
    (cert.parent / "other/tls").rmdir()
    (cert.parent / "other").rmdir()


def _key_open(cert: Path, key: Path) -> None:
    key.chmod(0o640)


@pytest.mark.parametrize("damage", [_garbled, _key_garbled, _key_of_another, _key_open])
def test_damaged_files_are_replaced(tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    cert, key = self_signed.ensure(tmp_path, now=NOW)
    damage(cert, key)
    assert made_again(tmp_path)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not made_again(tmp_path)


async def test_its_fingerprint_is_told_once_and_is_what_openssl_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        cert, _ = self_signed.ensure(tmp_path, ["lb.example.org"])
    ran = await run("openssl", "x509", "-in", cert, "-noout", "-fingerprint", "-sha256")
    (told,) = [record.getMessage() for record in caplog.records]
    assert ran.out.strip().partition("=")[2] in told
    assert "lb.example.org" in told


def test_addresses_are_addresses(tmp_path: Path) -> None:
    """A browser looks for an IP address among the addresses, not among the names."""
    cert, _ = self_signed.ensure(tmp_path, ["10.0.0.9"])
    found = read(cert).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ip_address("10.0.0.9") in found.get_values_for_type(x509.IPAddress)
    assert found.get_values_for_type(x509.DNSName) == ["localhost"]


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(OSError, match="exists"):
        self_signed.ensure(tmp_path)
