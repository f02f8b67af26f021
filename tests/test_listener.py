"""Listening, changing that in place, and stopping: one clear line where a port is taken, no request
lost on the way."""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from lb.access_log import AccessLogError
from lb.config import ListenConfig, ProxyConfig
from lb.config_service import RouteConfig
from lb.errors import ListenError
from lb.listener import ProxyServer, Stopped
from lb.routes import Routes
from lb.tls import TlsError
from tests.fake_backend import Exchange, FakeBackend, hang
from tests.proxy_harness import PATIENCE_S, Client, Proxied, one, proxied, reason_of, until
from tests.tls_harness import Authority, s_client

ROUTES = Routes((), "web")


def listening(*addresses: str | ListenConfig, **settings: Any) -> ProxyConfig:
    listen = tuple(
        ListenConfig(address=address) if isinstance(address, str) else address
        for address in addresses
    )
    return ProxyConfig(listen=listen, **settings)


def second(proxy: Proxied, config: ProxyConfig, home: Path | None = None) -> ProxyServer:
    """Another server before the same backends."""
    return ProxyServer(config, {"web": proxy.site}, ROUTES, home=home)


async def encrypted(address: str, authority: Path | None = None) -> Client:
    """A client that speaks TLS."""
    context = ssl.create_default_context(cafile=authority)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    client = Client(int(port))
    client.reader, client.writer = await asyncio.open_connection(host, int(port), ssl=context)
    return client


async def works(client: Client) -> bool:
    await client.request("GET", "/")
    return (await client.answer()).status == 200


async def connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return False
    writer.close()
    return True


# ── opening ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_taken_port_is_one_clear_line_and_nothing_else_is_left_open() -> None:
    async with proxied() as proxy:
        address = proxy.server.addresses[0]
        server = second(proxy, listening("127.0.0.1:0", address))
        with pytest.raises(ListenError) as caught:
            await server.start()
        assert str(caught.value) == (
            f"cannot listen on {address}: address in use, perhaps by another lbctl;"
            " set proxy.listen"
        )
        assert server.addresses == ()
        await server.stop()


async def test_it_listens_on_several_addresses() -> None:
    async with FakeBackend() as backend, proxied(backend) as proxy:
        server = second(proxy, listening("127.0.0.1:0", "[::1]:0"))
        await server.start()
        assert [a.rpartition(":")[0] for a in server.addresses] == ["127.0.0.1", "[::1]"]
        assert [url.partition("://")[0] for url in server.urls] == ["http", "http"]
        for address in server.addresses:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
        await server.stop()


async def test_an_address_that_is_not_ours_is_one_clear_line() -> None:
    async with proxied() as proxy:
        server = second(proxy, listening("192.0.2.1:0"))
        with pytest.raises(ListenError, match="this machine has no such address") as caught:
            await server.start()
        assert "\n" not in str(caught.value)
        await server.stop()


async def test_a_certificate_that_is_missing_is_one_clear_line_and_opens_nothing() -> None:
    tls = {"cert": "/nowhere.pem", "key": "/nowhere.key"}
    async with proxied() as proxy:
        server = second(proxy, listening("127.0.0.1:0", tls=tls))
        with pytest.raises(TlsError) as caught:
            await server.start()
        assert "/nowhere" in str(caught.value)
        assert server.addresses == ()


# ── TLS and redirects ─────────────────────────────────────────────────────────────────────────────


async def test_self_signed_tls_end_to_end(tmp_path: Path) -> None:
    async with one(tls={"self_signed": True}, home=tmp_path) as (proxy, backend):
        (url,) = proxy.server.urls
        assert url.startswith("https://127.0.0.1:")
        client = await encrypted(proxy.server.addresses[0])
        assert await works(client)
        assert await works(client), "and the connection is kept"
        await client.close()
        seen = backend.seen[0]
        assert seen.values(b"X-Forwarded-Proto") == [b"https"]
        assert seen.values(b"X-Forwarded-Port") == [b"%d" % proxy.port]
        ran = await s_client(proxy.port, "-tls1_3", "-quiet")
        assert "HTTP/1.1 400" in ran.out, "s_client sends no Host"


async def test_plain_http_on_a_tls_port_is_not_served(tmp_path: Path) -> None:
    async with one(tls={"self_signed": True}, home=tmp_path) as (proxy, backend):
        async with proxy.client() as client:
            await client.request("GET", "/")
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.answer()
        assert backend.seen == []


async def test_http_is_sent_to_https_where_that_is_wanted(tmp_path: Path) -> None:
    listen = (
        ListenConfig(address="127.0.0.1:0"),
        ListenConfig(address="[::1]:0", redirect_to_https=True),
    )
    async with one(listen=listen, tls={"self_signed": True}, home=tmp_path) as (proxy, backend):
        secure, plain = proxy.server.addresses
        port = plain.rpartition(":")[2]
        reader, writer = await asyncio.open_connection("::1", int(port))
        writer.write(
            b"POST /a?b=c HTTP/1.1\r\nHost: app.example:8080\r\nContent-Length: 2\r\n\r\nhi"
            b"GET /kept HTTP/1.1\r\nHost: app.example\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
        where = b"https://app.example:" + secure.rpartition(":")[2].encode()
        assert b"\r\nLocation: " + where + b"/a?b=c\r\n" in head
        assert where + b"/kept" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert backend.seen == []


async def test_a_clients_certificate_goes_on_to_the_backend(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, alice = authority.issue("server", "127.0.0.1"), authority.issue("alice")
    tls = {
        "cert": str(server.cert), "key": str(server.key),
        "client_auth": "optional", "client_ca": str(authority.path),
    }  # fmt: skip
    async with one(tls=tls) as (proxy, backend):
        context = ssl.create_default_context(cafile=authority.path)
        for pair in (None, alice):
            if pair is not None:
                context.load_cert_chain(pair.cert, pair.key)
            client = Client(proxy.port)
            client.reader, client.writer = await asyncio.open_connection(
                "127.0.0.1", proxy.port, ssl=context
            )
            await client.request("GET", "/", "Client-Cert: :Zm9yZ2VkCg==:")
            assert (await client.answer()).status == 200
            await client.close()
    without, with_one = backend.seen
    assert without.values(b"Client-Cert") == []
    (value,) = with_one.values(b"Client-Cert")
    der = ssl.PEM_cert_to_DER_cert(alice.cert.read_text())
    assert value == b":" + b64encode(der) + b":"


# ── another configuration, in place ───────────────────────────────────────────────────────────────


async def test_addresses_come_and_go_and_connections_stay() -> None:
    async with one() as (proxy, _), proxy.client() as kept:
        assert await works(kept)
        server = proxy.server
        (first,) = server.addresses
        await server.reconfigure(listening("127.0.0.1:0", "[::1]:0"), {"web": proxy.site}, ROUTES)
        assert server.addresses[0] == first, "it stays, and is not bound anew"
        assert server.addresses[1].startswith("[::1]:")
        assert await works(kept)
        await server.reconfigure(listening("[::1]:0"), {"web": proxy.site}, ROUTES)
        assert [a.rpartition(":")[0] for a in server.addresses] == ["[::1]"]
        assert not await connects(first)
        assert await works(kept), "a connection outlives the address that it came by"


async def test_tls_is_switched_on_and_off_in_place(tmp_path: Path) -> None:
    async with one(home=tmp_path) as (proxy, _), proxy.client() as plain:
        server, sites = proxy.server, {"web": proxy.site}
        assert await works(plain)
        (before,) = server.addresses
        await server.reconfigure(listening("127.0.0.1:0", tls={"self_signed": True}), sites, ROUTES)
        assert server.addresses == (before,)
        assert server.urls == (f"https://{before}",)
        secure = await encrypted(before)
        assert await works(secure)
        assert await works(plain)
        await server.reconfigure(listening("127.0.0.1:0"), sites, ROUTES)
        assert server.urls == (f"http://{before}",)
        assert (await proxy.get()).status == 200
        assert await works(secure)
        await secure.close()


async def test_a_new_certificate_is_served_to_new_connections(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pairs = [authority.issue(stem, "127.0.0.1") for stem in ("old", "new")]
    configs = [
        listening("127.0.0.1:0", tls={"cert": str(pair.cert), "key": str(pair.key)})
        for pair in pairs
    ]
    async with FakeBackend() as backend, proxied(backend) as proxy:
        server = second(proxy, configs[0])
        await server.start()
        (address,) = server.addresses
        names = []
        clients = []
        for config in configs:
            await server.reconfigure(config, {"web": proxy.site}, ROUTES)
            client = await encrypted(address, authority.path)
            clients.append(client)
            subject = client.writer.get_extra_info("ssl_object").getpeercert()["subject"]
            names.append(dict(pair for part in subject for pair in part)["commonName"])
        assert names == ["old", "new"]
        for client in clients:
            assert await works(client)
            await client.close()
        await server.stop()


async def test_new_limits_and_routes_hold_for_the_next_request() -> None:
    async with one() as (proxy, backend), proxy.client() as client:
        assert await works(client)
        routes = Routes((RouteConfig(path="/only", service="web"),), None)
        config = listening("127.0.0.1:0", limits={"body_bytes": 5})
        await proxy.server.reconfigure(config, {"web": proxy.site}, routes)
        await client.request("GET", "/else")
        answer = await client.answer()
        assert (answer.status, reason_of(answer.body)) == (404, "no_route")
        await client.request("GET", "/only/x")
        assert (await client.answer()).status == 200
        await client.request("POST", "/only", "Content-Length: 6", body=b"sixsix")
        assert (await client.answer()).status == 413
        assert [seen.target for seen in backend.seen] == [b"/", b"/only/x"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"listen": ({"address": "127.0.0.1:0"}, {"address": "192.0.2.1:0"})}, ListenError),
        ({"tls": {"cert": "/nowhere.pem", "key": "/nowhere.key"}}, TlsError),
        ({"access_log": {"format": "json", "path": "/nowhere/log"}}, AccessLogError),
        (
            {
                "listen": ({"address": "[::1]:0"}, {"address": "127.0.0.1:0", "tls": "off"}),
                "access_log": {"format": "json", "path": "/nowhere/log"},
            },
            AccessLogError,
        ),
    ],
)
async def test_a_bad_configuration_changes_nothing(
    bad: dict[str, Any], error: type[Exception]
) -> None:
    async with one() as (proxy, _), proxy.client() as client:
        assert await works(client)
        server = proxy.server
        before = (server.addresses, server.urls, server.proxy.config)
        config = ProxyConfig.model_validate({"listen": ({"address": "127.0.0.1:0"},), **bad})
        with pytest.raises(error):
            await server.reconfigure(config, {"web": proxy.site}, ROUTES)
        assert (server.addresses, server.urls, server.proxy.config) == before
        assert await works(client)
        assert (await proxy.get()).status == 200


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────


async def test_stopping_lets_running_requests_finish() -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(b"done")

    async with one(slow) as (proxy, backend), proxy.client() as busy, proxy.client() as idle:
        await busy.request("GET", "/slow")
        await until(lambda: len(backend.seen) == 1)
        (address,) = proxy.server.addresses
        stopping = asyncio.ensure_future(proxy.server.stop(PATIENCE_S))
        assert await idle.ended()
        assert proxy.server.addresses == ()
        assert not await connects(address)
        assert not stopping.done()
        release.set()
        answer = await busy.answer()
        assert (answer.body, answer.value("Connection")) == (b"done", "close")
        assert await busy.ended()
        stopped = await stopping
        assert (stopped.finished, stopped.cut) == (1, ())


async def test_stopping_says_what_the_deadline_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with one(hang) as (proxy, backend), proxy.client() as client:
        await client.request("GET", "/slow")
        await until(lambda: len(backend.seen) == 1)
        with caplog.at_level(logging.WARNING):
            stopped = await proxy.server.stop(0.1)
        assert stopped.cut == (f"GET /slow → {backend.address}",)
        assert "cut at shutdown: GET /slow" in caplog.text
        assert await client.ended()
        assert proxy.codes() == {503: 1}


async def test_what_waits_in_line_is_cut_too() -> None:
    async with (
        one(hang, max_in_flight=1) as (proxy, backend),
        proxy.client() as running,
        proxy.client() as waiting,
    ):
        await running.request("GET", "/running")
        await until(lambda: len(backend.seen) == 1)
        await waiting.request("GET", "/waiting")
        await until(lambda: len(proxy.site.line) == 1)
        stopped = await proxy.server.stop(0.1)
        assert sorted(stopped.cut) == [
            f"GET /running → {backend.address}",
            "GET /waiting → no backend yet",
        ]
        assert await waiting.ended()


async def test_stopping_twice_is_once() -> None:
    async with one() as (proxy, _):
        await proxy.server.stop(PATIENCE_S)
        assert await proxy.server.stop(PATIENCE_S) == Stopped(0, ())
