"""TLS contexts: towards clients, by the name they ask for and replaceable while connections run;
towards backends, verified unless the configuration says otherwise.

Owns which certificate a handshake gets and which files are good enough to serve. Opens no socket,
and never asks anybody for a passphrase.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lb.address import split_address
from lb.config_proxy import TlsConfig
from lb.config_service import UpstreamTlsConfig
from lb.errors import LbError

if TYPE_CHECKING:
    # imported where a certificate is read: 25 ms that a start without TLS need not pay
    from cryptography import x509

log = logging.getLogger(__name__)

# Mozilla's "intermediate" for TLS 1.2, without its finite-field DHE suites: every client that has
# those has ECDHE too, and a handshake with them costs a server far more than a client. The suites
# of 1.3 are OpenSSL's own, all of them good. https://ssl-config.mozilla.org
CIPHERS: Final = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
    )
)  # fmt: skip
_ALPN: Final = ["http/1.1"]
_VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_VERIFY: Final[Mapping[str, ssl.VerifyMode]] = {
    "off": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
# RFC 4514 §3; other attributes are written by the names OpenSSL has for them.
_SHORT: Final[Mapping[str, str]] = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


class TlsError(LbError):
    """A certificate, key or authority cannot be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that is served."""

    path: str
    names: tuple[str, ...]
    """Host names it is for, lower case, wildcards included."""
    not_after: datetime
    context: ssl.SSLContext


# ── towards clients ──────────────────────────────────────────────────────────────────────────────


class ServerTls:
    """`context` is for every listener that speaks TLS, for as long as it listens: `reload` changes
    what is behind it. `names` are what clients may connect to, for a self-signed certificate.

    Raises TlsError where nothing can be served.
    """

    def __init__(
        self,
        config: TlsConfig,
        home: Path,
        names: Sequence[str] = (),
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._home = home
        self._names = tuple(names)
        self._now = now
        self.certificates: tuple[Certificate, ...] = ()
        self._listening = _ListenerContext(ssl.PROTOCOL_TLS_SERVER)
        self.reload(config)

    @property
    def context(self) -> ssl.SSLContext:
        return self._listening

    def reload(self, config: TlsConfig) -> None:
        """Read every file again. Handshakes from now on get what they hold; connections that stand
        are not touched. Raises TlsError, and then nothing has changed."""
        self.use(self.load(config))

    def load(
        self, config: TlsConfig, names: Sequence[str] | None = None
    ) -> tuple[Certificate, ...]:
        """The first half of `reload`: reads, and changes nothing that is served. Raises TlsError.

        `names` where clients connect to others than at the start."""
        files = [(part.cert, part.key) for part in config.certificates]
        if config.self_signed:
            from lb import self_signed

            try:
                cert, key = self_signed.ensure(
                    self._home, self._names if names is None else names, now=self._now()
                )
            except OSError as error:
                raise TlsError(f"cannot keep a self-signed certificate: {_why(error)}") from error
            files = [(str(cert), str(key))]
        if not files:
            raise TlsError("[proxy.tls] names no certificate: give it cert and key")
        return tuple(_certificate(cert, key, config) for cert, key in files)

    def use(self, certificates: tuple[Certificate, ...]) -> None:
        """The second half of `reload`, which cannot fail: serve what was loaded."""
        first = certificates[0].context
        # With one there is nothing to choose. (Python reports a name that is not ASCII, which
        # anybody may send, on standard error where it has to ask us.)
        if len(certificates) > 1:
            first.sni_callback = _Chooser(certificates)
        self.certificates = certificates
        self._listening.current = first
        for certificate in certificates:
            self._say(certificate)

    def _say(self, certificate: Certificate) -> None:
        names = ", ".join(certificate.names) or "no host name"
        log.info("serving %s: for %s", certificate.path, names)
        if certificate.not_after < self._now():
            log.warning(
                "%s expired at %s: clients will refuse it", certificate.path, certificate.not_after
            )


class _ListenerContext(ssl.SSLContext):
    """What a listener holds: each handshake runs on the context that is current as it begins.

    So one connection never sees two configurations, and a session ticket ends with the context
    that gave it: a client that once came in without a certificate could otherwise resume its
    session after `client_auth = "required"`, and would not be asked for one.
    """

    current: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        connection: Any = self.current.wrap_bio(
            incoming, outgoing, server_side, server_hostname, session
        )
        connection.outgoing = outgoing
        return connection  # type: ignore[no-any-return]


class _Connection(ssl.SSLObject):
    """Tells a client why its handshake failed.

    asyncio and uvloop close at once and leave OpenSSL's alert unsent, so that the client knows
    nothing of a version or a certificate that it lacks. They do send what is there while a
    handshake goes on: so it goes on until the client ends it, or its time is up.
    """

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if not self.outgoing.pending:
                # Said already; or what came was not TLS at all, and there is nothing to say.
                raise
            raise ssl.SSLWantReadError(
                ssl.SSL_ERROR_WANT_READ, "until the client ends it"
            ) from error


class _Chooser:
    """The certificate for the name a client asks for: exact, then wildcard, else the first.

    OpenSSL asks in the handshake: nothing here may fail or wait.
    """

    def __init__(self, certificates: Sequence[Certificate]) -> None:
        self._by_name: dict[str, ssl.SSLContext] = {}
        for certificate in certificates:
            for name in certificate.names:
                self._by_name.setdefault(name, certificate.context)

    def __call__(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> None:
        if name is None:
            return
        name = name.lower().rstrip(".")
        # RFC 9525 §6.3: a wildcard is one whole label, the leftmost.
        found = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
        if found is not None:
            connection.context = found


def check(config: TlsConfig) -> None:
    """Read every file that a listener would need; nothing is served by it. Raises TlsError."""
    for part in config.certificates:
        _certificate(part.cert, part.key, config)
    if config.client_auth != "off":
        _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config.client_ca)


def _certificate(cert: str, key: str, config: TlsConfig) -> Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Connection
    context.minimum_version = _VERSIONS[config.min_version]
    context.set_ciphers(CIPHERS)
    # All of them are good: a phone without AES in hardware may prefer ChaCha20.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(_ALPN)
    leaf = _leaf(cert)
    _load_pair(context, cert, key)
    if config.client_auth != "off":
        _load_authorities(context, config.client_ca)
        context.verify_mode = _VERIFY[config.client_auth]
    return Certificate(cert, _names(leaf), leaf.not_valid_after_utc, context)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


# ── towards backends ─────────────────────────────────────────────────────────────────────────────


def client_context(config: UpstreamTlsConfig) -> ssl.SSLContext | None:
    """What connections to a service's backends are made with; None where they are plain.

    Give `server_hostname` with it. Raises TlsError.
    """
    if not config.enabled:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    # A body that ends with its connection is whole only where TLS says that this was the end.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.ca:
        _load_authorities(context, config.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if config.cert:
        _leaf(config.cert)
        _load_pair(context, config.cert, config.key)
    return context


def server_hostname(config: UpstreamTlsConfig, address: str) -> str:
    """Who a backend at `address` (host:port) has to prove to be, and is asked for by SNI: a
    configured name, else the host of its address. An IP address is verified, never asked for."""
    return config.server_name or split_address(address)[0]


# ── who is at the other end ──────────────────────────────────────────────────────────────────────


def peer_name(connection: ssl.SSLObject | ssl.SSLSocket | None) -> str | None:
    """The subject of the client's verified certificate, such as `CN=alice,O=Example` (RFC 4514);
    None without one, or where its text is not what it says it is.

    Printable ASCII only, whatever is in the certificate: safe in a log line and a header field.
    """
    try:
        certificate: Any = connection.getpeercert() if connection is not None else None
    except UnicodeDecodeError:
        return None
    if not certificate:
        return None
    parts = []
    for name in reversed(certificate.get("subject", ())):
        values = [f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in name]
        parts.append("+".join(values))
    if not parts:
        # A workload's identity (SPIFFE) stands in the alternative names, and the subject is empty.
        parts = [f"{kind}:{_escaped(str(value))}" for kind, value in certificate["subjectAltName"]]
    return ",".join(parts)


def _escaped(value: str) -> str:
    """RFC 4514 §2.4, with everything beyond printable ASCII in hexadecimal."""
    data = value.encode()
    out = []
    for index, byte in enumerate(data):
        character = chr(byte)
        if not 0x20 <= byte <= 0x7E or (character == " " and index in (0, len(data) - 1)):
            out.append(f"\\{byte:02X}")
        elif character in '",+;<>\\=' or (character == "#" and index == 0):
            out.append("\\" + character)
        else:
            out.append(character)
    return "".join(out)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {path}: {_why(error)}") from error


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _leaf(path: str) -> x509.Certificate:
    """The first certificate of a chain: the server's own."""
    from cryptography import x509

    data = _read(path)
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except ValueError as error:
        raise TlsError(f"cannot use {path}: it holds no certificate in PEM form") from error


class _Encrypted(Exception):
    """OpenSSL asked for a passphrase."""


def _no_passphrase() -> str:
    raise _Encrypted


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    _read(key)
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except _Encrypted:
        raise TlsError(
            f"cannot use {key}: it is encrypted, and nobody is there to give the passphrase:"
            " write it without one, readable for its owner only"
        ) from None
    except ssl.SSLError as error:
        raise TlsError(_refused(cert, key, error.reason)) from error
    except OSError as error:
        raise TlsError(f"cannot read {cert} and {key}: {_why(error)}") from error


def _refused(cert: str, key: str, reason: str | None) -> str:
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return f"cannot use {key}: it is not the key of {cert}"
    if not reason:
        return f"cannot use {key}: it holds no private key in PEM form"
    return f"cannot use {cert}: OpenSSL says {reason.lower().replace('_', ' ')}"


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _read(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TlsError(f"cannot use {path}: it holds no certificates in PEM form") from error
    except OSError as error:
        raise TlsError(f"cannot read {path}: {_why(error)}") from error
