"""For tests of TLS: an authority that signs what it is told, a small server, openssl and curl.

`handshake` joins two contexts in memory, where no socket and no program is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from lb.tls import peer_name

PATIENCE_S: Final = 20.0
DAY: Final = timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Pair:
    cert: Path
    key: Path


class Authority:
    """Signs certificates into a folder. `path` is its own, for those who trust it."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = common_name(name)
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, stem: str, *names: str, subject: x509.Name | None = None, key: Key | None = None,
        valid_for: timedelta = DAY, uris: Sequence[str] = (), passphrase: bytes | None = None,
    ) -> Pair:  # fmt: skip
        """A certificate with a fresh key, in STEM.pem and STEM.key; its common name is the stem."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject if subject is not None else common_name(stem))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - 10 * DAY)
            .not_valid_after(datetime.now(UTC) + valid_for)
        )
        general = [*map(_general, names), *map(x509.UniformResourceIdentifier, uris)]
        if general:
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(passphrase)
                if passphrase
                else serialization.NoEncryption(),
            )
        )
        return pair


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection, in memory. Raises the ssl.SSLError of whoever refuses first."""
    return join(client, server, name)[:2]


def join(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """The same, with what goes to the client and what goes to the server."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    waiting = set(ends)
    while waiting:
        for end in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                waiting.discard(end)
    return *ends, to_client, to_server


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server on a loopback port; its answers say whose certificate the client showed, and it
    keeps a connection until the client asks for its end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            keep = True
            while keep:
                head = await reader.readuntil(b"\r\n\r\n")
                keep = b"Connection: keep-alive" in head
                body = str(peer_name(writer.get_extra_info("ssl_object"))).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    """Standard output and standard error, as they came."""


async def run(*command: str | Path, stdin: bytes = b"") -> Ran:
    """One of the programs that `./run test` installs."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(errors="replace"))


async def s_client(port: int, *options: str | Path) -> Ran:
    """`openssl s_client` that asks for a page and reads until the end."""
    return await run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *options,
        stdin=b"GET / HTTP/1.1\r\n\r\n",
    )  # fmt: skip


async def curl(port: int, host: str, *options: str | Path) -> Ran:
    """`curl` for https://HOST, which is here; prints the body, or why there is none."""
    return await run(
        "curl", "-sS", "--max-time", "10", "--noproxy", "*",
        "--resolve", f"{host}:{port}:127.0.0.1", *options, f"https://{host}:{port}/",
    )  # fmt: skip
