"""Listeners that take PROXY headers, over real sockets: who is believed to have connected."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from lb import sockets
from lb.acceptor import Acceptor
from lb.config import LimitsConfig, ListenConfig, TlsConfig
from lb.config_proxy import CertificateConfig
from lb.proxy_protocol import encode
from tests.fake_backend import FakeBackend
from tests.proxy_harness import PATIENCE_S, Client, Proxied, one, until
from tests.tls_harness import Authority

SOURCE = ("203.0.113.7", 4321)
DESTINATION = ("198.51.100.1", 443)
V1 = encode(1, SOURCE, DESTINATION)
V2 = encode(2, SOURCE, DESTINATION)


@asynccontextmanager
async def introduced(**settings: Any) -> AsyncIterator[tuple[Proxied, FakeBackend]]:
    """A proxy that takes PROXY headers from loopback."""
    listen = (ListenConfig(address="127.0.0.1:0", proxy_protocol=True),)
    settings.setdefault("trusted_proxies", ("127.0.0.0/8",))
    async with one(listen=listen, **settings) as (proxy, backend):
        yield proxy, backend


async def works(client: Client) -> bool:
    await client.request("GET", "/")
    return (await client.answer()).status == 200


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("bytewise", [False, True])
async def test_the_client_is_whom_the_header_names(header: bytes, bytewise: bool) -> None:
    async with introduced() as (proxy, backend), proxy.client() as client:
        for piece in (header[n : n + 1] for n in range(len(header))) if bytewise else (header,):
            await client.send(piece)
            await asyncio.sleep(0)
        for _ in range(2):
            assert await works(client)
    for seen in backend.seen:
        assert seen.values(b"X-Forwarded-For") == [b"203.0.113.7"]
        assert seen.values(b"X-Forwarded-Port") == [b"443"]
        assert b"PROXY" not in seen.head


async def test_header_and_request_may_come_in_one_segment() -> None:
    async with introduced() as (proxy, backend), proxy.client() as client:
        await client.send(
            V1 + b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        for _ in range(2):
            assert (await client.answer()).status == 200
    assert [seen.target for seen in backend.seen] == [b"/1", b"/2"]


@pytest.mark.parametrize("version", [1, 2])
async def test_of_a_local_connection_the_peer_is_the_client(version: Literal[1, 2]) -> None:
    async with introduced() as (proxy, backend), proxy.client() as client:
        await client.send(encode(version, None, None))
        assert await works(client)
        assert backend.seen[0].values(b"X-Forwarded-For") == [b"127.0.0.1"]
        assert backend.seen[0].values(b"X-Forwarded-Port") == [b"%d" % proxy.port]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 nonsense\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        V1[:-2] + b"\n",
        V2[:12] + b"\x31" + V2[13:],
        V2[:14] + b"\xff\xff" + b"x" * 8000,
    ],
)
async def test_a_connection_without_a_header_is_closed_without_a_word(sent: bytes) -> None:
    async with introduced() as (proxy, backend), proxy.client() as client:
        await client.send(sent)
        assert await client.ended()
        assert backend.seen == []


async def test_one_that_ends_within_its_header_leaves_nothing() -> None:
    async with introduced() as (proxy, _):
        for data in (b"", V1[:9]):
            client = proxy.client()
            await client.__aenter__()
            await client.send(data)
            await client.close()
        assert not proxy.server.proxy.connections


async def test_a_header_that_does_not_come_in_time_ends_the_connection() -> None:
    async with introduced(timeouts={"head": 0.2}) as (proxy, _), proxy.client() as client:
        await client.send(V1[:9])
        assert await client.ended()


async def test_only_trusted_proxies_may_send_one(caplog: pytest.LogCaptureFixture) -> None:
    async with introduced(trusted_proxies=("10.0.0.0/8",)) as (proxy, backend):
        async with proxy.client() as client:
            await client.send(V1)
            assert await client.ended()
        assert backend.seen == []
    assert "127.0.0.1 sends PROXY headers and is none of trusted_proxies" in caplog.text


async def test_whom_it_names_is_not_trusted_for_that() -> None:
    """The proxy before us is trusted; its client is not, and may write what it likes."""
    async with introduced() as (proxy, backend), proxy.client() as client:
        await client.send(V1)
        await client.request("GET", "/", "X-Forwarded-For: 6.6.6.6")
        assert (await client.answer()).status == 200
    assert backend.seen[0].values(b"X-Forwarded-For") == [b"203.0.113.7"]


async def test_connections_are_counted_for_whom_it_names() -> None:
    async with (
        introduced(limits={"connections_per_client": 1}) as (proxy, _),
        proxy.client() as first,
        proxy.client() as second,
        proxy.client() as third,
    ):
        await first.send(V1)
        assert await works(first)
        await second.send(V1)
        assert await second.ended()
        await third.send(encode(1, ("203.0.113.8", 1), DESTINATION))
        assert await works(third)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
async def test_the_header_comes_before_tls(header: bytes, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", "app.example")
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    async with introduced(tls=tls) as (proxy, backend):
        client = proxy.client()
        client.reader, client.writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await client.send(header)
        context = ssl.create_default_context(cafile=authority.path)
        await client.writer.start_tls(context, server_hostname="app.example")
        for _ in range(2):
            assert await works(client)
        await client.close()
        await until(lambda: not proxy.server.proxy.connections)
    for seen in backend.seen:
        assert seen.values(b"X-Forwarded-For") == [b"203.0.113.7"]
        assert seen.values(b"X-Forwarded-Proto") == [b"https"]


async def test_a_failed_handshake_behind_a_header_leaves_nothing(tmp_path: Path) -> None:
    async with introduced(tls={"self_signed": True}, home=tmp_path) as (proxy, _):
        async with proxy.client() as client:
            await client.send(V1 + b"no handshake at all, and quite some bytes of it")
            assert await client.ended()
        async with proxy.client() as client:
            await client.send(V1)
            client.abort()
        assert not proxy.server.proxy.connections


async def test_stopping_does_not_wait_for_headers_nor_take_who_comes_late() -> None:
    async with introduced(timeouts={"head": 5.0}) as (proxy, backend):
        async with proxy.client() as late:
            await late.send(V1[:9])
            await asyncio.sleep(0.05)
            await proxy.server.stop(1.0)
            await late.send(V1[9:] + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await late.ended()
        assert backend.seen == []


async def test_without_a_file_for_a_connection_it_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be accepted stays readable: asking again at once would be all we did."""
    monkeypatch.setattr("lb.acceptor.FULL_PAUSE_S", 0.2)
    asked = []

    class Full(socket.socket):
        def accept(self) -> Any:
            asked.append(self)
            raise OSError(errno.EMFILE, "too many open files")

    bound = sockets.bind("127.0.0.1:0")[0]
    full = Full(bound.family, bound.type, bound.proto, fileno=bound.detach())
    full.setblocking(False)
    acceptor = Acceptor(
        full,
        pytest.fail,
        knocked=lambda _: True,
        settled=lambda _: None,
        trust=lambda: {"127.0.0.1"},
        timeout_s=lambda: PATIENCE_S,
        context=None,
        loop=asyncio.get_running_loop(),
    )
    with socket.create_connection(full.getsockname()):
        await until(lambda: len(asked) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(asked) == 1
        await until(lambda: len(asked) == 2)
    acceptor.close()


@pytest.mark.parametrize("listen", [{"tls": "on"}, {"proxy_protocol": True}], ids=["tls", "proxy"])
async def test_who_connects_and_says_nothing_counts(listen: dict[str, Any], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    config = ListenConfig(address="127.0.0.1:0", **listen)
    pair = authority.issue("localhost")
    tls = TlsConfig(certificates=(CertificateConfig(cert=str(pair.cert), key=str(pair.key)),))
    limits = LimitsConfig(connections=2)
    async with one(
        listen=(config,), tls=tls, limits=limits, trusted_proxies=("127.0.0.0/8",), home=tmp_path
    ) as (proxy, _):
        async with proxy.client(), proxy.client(), proxy.client() as third:
            assert await third.ended()
            assert proxy.counters.turned_away == 1
            assert proxy.counters.connections == 2
        await until(lambda: proxy.counters.connections == 0)


async def test_with_tls_a_clients_connections_count_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("localhost")
    tls = TlsConfig(certificates=(CertificateConfig(cert=str(pair.cert), key=str(pair.key)),))
    limits = LimitsConfig(connections_per_client=1)
    async with one(tls=tls, limits=limits, home=tmp_path) as (proxy, _):
        context = ssl.create_default_context(cafile=str(authority.path))
        for _ in range(2):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", proxy.port, ssl=context, server_hostname="localhost"
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert proxy.counters.connections == 1
            writer.close()
            await writer.wait_closed()
            await until(lambda: proxy.counters.connections == 0)
