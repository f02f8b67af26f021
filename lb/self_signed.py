"""A certificate of our own for a first try: made once, kept in `LBCTL_HOME`, made again in time.

Owns the two files and when they are replaced. Nobody vouches for it: a browser warns, and whoever
wants to be sure compares the fingerprint with the one in the log.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

log = logging.getLogger(__name__)

ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
LIFETIME: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=7)
"""Replaced at the first start or reload within its last week, not after its last day."""
# Clients whose clock is a little behind must not find it to be of the future.
_BACKDATED: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _Found:
    names: frozenset[str]
    not_after: datetime


def ensure(
    home: Path, names: Sequence[str] = (), *, now: datetime | None = None
) -> tuple[Path, Path]:
    """The paths of a certificate and its key (PEM, mode 0600) for `names` and the loopback's.

    Kept as they are for a year; made anew near the end of it, for further names (those it had
    before stay), and where the files are damaged or the key was readable by others. Raises OSError.
    """
    now = now or datetime.now(UTC)
    folder = home / "tls"
    cert_path, key_path = folder / "self-signed.pem", folder / "self-signed.key"
    wanted = _plain([*ALWAYS, *names])
    found = _read(cert_path, key_path)
    if found is not None and wanted <= found.names and now < found.not_after - RENEW_BEFORE:
        return cert_path, key_path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make(cert_path, key_path, wanted | (found.names if found else frozenset()), now)
    return cert_path, key_path


def _plain(names: Iterable[str]) -> frozenset[str]:
    """As they stand in a certificate. 0.0.0.0 and :: are nobody's address and are left out."""
    plain = set()
    for name in names:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            plain.add(name.lower().rstrip("."))
        else:
            if not address.is_unspecified:
                plain.add(str(address))
    return frozenset(plain)


def _read(cert_path: Path, key_path: Path) -> _Found | None:
    """What is there already; None where it cannot serve any more."""
    try:
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if stat.S_IMODE(key_path.stat().st_mode) & 0o077:
            log.warning("%s was readable by others: it is replaced", key_path)
            return None
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return None
    if cert.public_key() != key.public_key():
        return None
    return _Found(
        _plain(
            [
                *names.get_values_for_type(x509.DNSName),
                *map(str, names.get_values_for_type(x509.IPAddress)),
            ]
        ),
        cert.not_valid_after_utc,
    )


def _make(cert_path: Path, key_path: Path, names: frozenset[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    cert = _certificate(key, names, now)
    # The key first: a crash between the two leaves a pair that does not match, which is made again.
    _write(
        key_path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        0o600,
    )
    _write(cert_path, cert.public_bytes(serialization.Encoding.PEM), 0o644)
    log.info(
        "made a self-signed certificate for %s until %s: SHA-256 fingerprint %s",
        ", ".join(sorted(names)),
        cert.not_valid_after_utc.date(),
        cert.fingerprint(hashes.SHA256()).hex(":").upper(),
    )


def _certificate(
    key: ec.EllipticCurvePrivateKey, names: frozenset[str], now: datetime
) -> x509.Certificate:
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lbctl self-signed")])
    return (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in sorted(names)]), critical=False
        )
        # No authority: Firefox refuses an authority's certificate as a server's.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes, mode: int) -> None:
    """The whole file or the old one, and never for a moment readable by more than `mode` says."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(data)
    fresh.replace(path)
