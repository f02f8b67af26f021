"""Connections to backends over real sockets: opened, kept, reused or not, closed in time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lb import upstream as module
from lb.backend import Backend, Lifecycle
from lb.backend_connection import BackendConnection
from lb.config import LimitsConfig, TimeoutsConfig
from lb.config_service import ServiceConfig
from lb.dial import dial
from lb.errors import (
    BackendTlsError,
    ConnectFailedError,
    ConnectTimeoutError,
    RequestError,
    StaleConnectionError,
    UpstreamResetError,
)
from lb.exchange import Onward
from lb.pool import Report
from lb.proxy_protocol import encode
from lb.tasks import cancel, spawn
from lb.tls import TlsError
from lb.upstream import Upstream
from lb.wire.head import AnswerHead
from tests.fake_backend import (
    OK,
    Exchange,
    FakeBackend,
    Script,
    hang,
    in_turn,
    refused_address,
    reset_at_once,
    send,
)
from tests.proxy_harness import one, reason_of, until
from tests.tls_harness import Authority, serving

TIMEOUTS = TimeoutsConfig(connect=10.0)


def onward(method: str = "GET", **more: Any) -> Onward:
    head = f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    return Onward(method, head, b"id", **more)


def silent(_: AnswerHead) -> None:
    pass


@asynccontextmanager
async def upstream(**service: Any) -> AsyncIterator[Upstream]:
    made = Upstream(LimitsConfig(), ServiceConfig.model_validate(service))
    try:
        yield made
    finally:
        made.close()


def ready(address: str, **more: Any) -> Backend:
    backend = Backend("a", address, **more)
    backend.lifecycle = Lifecycle.READY
    return backend


async def ask(
    up: Upstream, backend: Backend, method: str = "GET", *, fresh: bool = False, **more: Any
) -> bytes:
    """One exchange, to its end."""
    exchange, _ = await up.send(
        backend, onward(method, **more), None, silent, TIMEOUTS, fresh=fresh
    )
    body = b""
    while piece := await exchange.read():
        body += piece
    up.finish(backend, exchange)
    return body


# ── kept and used again ───────────────────────────────────────────────────────────────────────────


async def test_one_connection_serves_one_request_after_the_other() -> None:
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        for _ in range(5):
            assert await ask(up, backend) == b"ok"
        assert fake.connections == 1
        assert await ask(up, backend, fresh=True) == b"ok"
        assert fake.connections == 2


async def test_requests_at_once_have_a_connection_each() -> None:
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        await asyncio.gather(*(ask(up, backend) for _ in range(5)))
        assert fake.connections == 5
        for _ in range(5):
            await ask(up, backend)
        assert fake.connections == 5


@pytest.mark.parametrize(
    "script",
    [
        send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        send(OK + b"and more"),
        send(OK + OK),
        send(b"HTTP/1.1 204 No Content\r\n\r\nbody"),
    ],
)
async def test_a_connection_that_may_not_be_used_again_is_closed(script: Script) -> None:
    async with FakeBackend(script) as fake, upstream() as up:
        backend = ready(fake.address)
        for number in range(1, 4):
            await ask(up, backend)
            assert fake.connections == number
        await until(lambda: fake.open == 0)


async def test_http_1_0_with_keep_alive_is_used_again() -> None:
    head = b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok"
    async with FakeBackend(send(head)) as fake, upstream() as up:
        backend = ready(fake.address)
        for _ in range(3):
            await ask(up, backend)
        assert fake.connections == 1


async def test_an_answer_left_half_read_closes_its_connection() -> None:
    script = send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", then="hang")
    async with FakeBackend(script) as fake, upstream() as up:
        backend = ready(fake.address)
        exchange, _ = await up.send(backend, onward(), None, silent, TIMEOUTS)
        assert await exchange.read() == b"half"
        up.finish(backend, exchange)
        await until(lambda: fake.open == 0)


async def test_bytes_nobody_asked_for_close_a_connection_at_rest() -> None:
    told = asyncio.Event()

    async def chatty(exchange: Exchange) -> None:
        await exchange.answer()
        await told.wait()
        await exchange.send(OK)

    async with FakeBackend(chatty) as fake, upstream() as up:
        backend = ready(fake.address)
        await ask(up, backend)
        told.set()
        await until(lambda: fake.open == 0)
        assert up._held[backend].kept == []


async def test_one_idle_for_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        await asyncio.gather(*(ask(up, backend) for _ in range(3)))
        assert fake.open == 3
        await until(lambda: fake.open == 0)
        assert up._held[backend].kept == []
        assert up._sweeper is None


async def test_a_backend_that_leaves_keeps_no_idle_connection() -> None:
    async with FakeBackend() as fake, FakeBackend() as staying, upstream() as up:
        leaving, other = ready(fake.address), ready(staying.address)
        await ask(up, leaving)
        await ask(up, other)
        up.settle()
        assert (fake.open, staying.open) == (1, 1)
        leaving.lifecycle = Lifecycle.DRAINING
        up.settle()
        await until(lambda: fake.open == 0)
        assert staying.open == 1


async def test_a_request_that_ends_while_its_backend_drains_leaves_no_connection() -> None:
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        exchange, _ = await up.send(backend, onward(), None, silent, TIMEOUTS)
        backend.lifecycle = Lifecycle.DRAINING
        assert await exchange.read() == b"ok"
        up.finish(backend, exchange)
        await until(lambda: fake.open == 0)


async def test_closing_closes_all_that_rests() -> None:
    async with FakeBackend() as fake:
        async with upstream() as up:
            await ask(up, ready(fake.address))
            assert fake.open == 1
        await until(lambda: fake.open == 0)


# ── ends before an answer ─────────────────────────────────────────────────────────────────────────


async def test_a_new_connection_that_ends_is_the_backends_fault_a_kept_one_nobodys() -> None:
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        await ask(up, backend)
        fake.script = reset_at_once
        with pytest.raises(StaleConnectionError):
            await ask(up, backend)
        with pytest.raises(UpstreamResetError) as caught:
            await ask(up, backend)
        assert type(caught.value) is UpstreamResetError
        await until(lambda: fake.open == 0)


async def test_a_cancelled_request_leaves_no_connection() -> None:
    async with FakeBackend(hang) as fake, upstream() as up:
        asking = spawn(ask(up, ready(fake.address)), name="request")
        await until(lambda: fake.seen)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: fake.open == 0)


# ── connecting ────────────────────────────────────────────────────────────────────────────────────


async def test_nobody_listens() -> None:
    async with upstream() as up:
        for address in (refused_address(), "no-such-name.invalid:80"):
            with pytest.raises(ConnectFailedError) as caught:
                await ask(up, ready(address))
            assert "\n" not in str(caught.value)


async def test_nobody_accepts_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        # full: from now on the kernel drops every first packet
        filling = [socket.socket() for _ in range(4)]
        for one_more in filling:
            one_more.setblocking(False)
            one_more.connect_ex((host, port))
        async with upstream() as up:
            with pytest.raises(ConnectTimeoutError):
                await up.send(
                    ready(f"{host}:{port}"), onward(), None, silent, TimeoutsConfig(connect=0.1)
                )
        for one_more in filling:
            one_more.close()


def _knocking(port: int) -> int:
    """Client sockets on their way to `port` or connected to it, as the kernel lists them."""
    connecting, connected = "02", "01"
    rows = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    cells = [row.split() for row in rows]
    return sum(
        remote.endswith(f":{port:04X}") and state in (connecting, connected)
        for _, _, remote, state, *_ in cells
    )


async def test_a_forwarded_port_is_never_flooded() -> None:
    """QEMU's forwarded port has a backlog of 1 and, while the host is busy, is slow to accept.
    Of eight requests at once, two wait to be accepted and one knocks; none is dropped for long."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        backend = ready(f"127.0.0.1:{port}", vm="vm")
        async with upstream() as up:
            sending = [spawn(ask(up, backend), name=f"request {n}") for n in range(8)]
            await until(lambda: _knocking(port) >= 2)
            for _ in range(10):
                await asyncio.sleep(0.03)
                assert _knocking(port) <= 3

            async def serve() -> None:
                while True:
                    connection, _ = await loop.sock_accept(listener)
                    accepted.append(connection)
                    # nothing comes where the knock was given up just as it was heard
                    if await loop.sock_recv(connection, 4096):
                        await loop.sock_sendall(connection, OK)

            accepted: list[socket.socket] = []
            serving_all = spawn(serve(), name="door")
            assert [await task for task in sending] == [b"ok"] * 8
            await cancel(serving_all)
            for connection in accepted:
                connection.close()


async def test_a_proxy_header_begins_each_connection_and_none_is_kept() -> None:
    header = encode(1, ("203.0.113.7", 4321), ("198.51.100.1", 80))
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, upstream(send_proxy_protocol="v1") as up:
        for _ in range(2):
            await ask(up, ready(f"{host}:{port}"), proxy_header=header)
    assert heads == [header + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] * 2


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────────


def server_side(authority: Authority, *names: str, clients: bool = False) -> ssl.SSLContext:
    pair = authority.issue("backend", *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.path)
    return context


async def test_a_backends_certificate_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = {"enabled": True, "ca": str(authority.path)}
    async with (
        serving(server_side(authority, "127.0.0.1")) as port,
        upstream(tls=tls) as up,
    ):
        assert await ask(up, ready(f"127.0.0.1:{port}")) == b"None"


@pytest.mark.parametrize(
    ("names", "tls", "works"),
    [
        (["127.0.0.1"], {}, False),
        (["10.0.0.1"], {"ca": "ours"}, False),
        (["app.internal"], {"ca": "ours", "server_name": "app.internal"}, True),
        (["127.0.0.1"], {"ca": "ours", "server_name": "app.internal"}, False),
        (["10.0.0.1"], {"verify": False}, True),
    ],
)
async def test_another_certificate_is_refused_unless_that_is_wanted(
    names: list[str], tls: dict[str, Any], works: bool, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    if "ca" in tls:
        tls = {**tls, "ca": str(authority.path)}
    async with (
        serving(server_side(authority, *names)) as port,
        upstream(tls={"enabled": True, **tls}) as up,
    ):
        backend = ready(f"127.0.0.1:{port}")
        if works:
            assert await ask(up, backend) == b"None"
        else:
            with pytest.raises(BackendTlsError):
                await ask(up, backend)


async def test_our_own_certificate_is_shown_where_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("proxy")
    tls = {
        "enabled": True, "ca": str(authority.path), "cert": str(mine.cert), "key": str(mine.key),
    }  # fmt: skip
    context = server_side(authority, "127.0.0.1", clients=True)
    async with serving(context) as port:
        async with upstream(tls=tls) as up:
            assert await ask(up, ready(f"127.0.0.1:{port}")) == b"CN=proxy"
        async with upstream(tls={"enabled": True, "ca": str(authority.path)}) as up:
            with pytest.raises(RequestError):
                await ask(up, ready(f"127.0.0.1:{port}"))


@pytest.mark.parametrize("first", [True, False], ids=["speaks first", "answers"])
async def test_a_backend_that_speaks_no_tls_is_a_connection_that_failed(first: bool) -> None:
    """Speaking first, it must not be taken for what comes encrypted later: anybody can do that."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not first:
            await reader.read(1)
        writer.write(poison)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, upstream(tls={"enabled": True, "verify": False}) as up:
        with pytest.raises(BackendTlsError):
            await ask(up, ready(f"{host}:{port}"))


async def test_plain_bytes_before_the_handshake_are_never_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody on the way puts an answer before the backend's encrypted ones."""
    authority = Authority(tmp_path)

    async def slowly(address: str) -> BackendConnection:
        connection = await dial(address)
        while not connection.buffer:
            await connection.more()
        return connection

    monkeypatch.setattr("lb.upstream.dial", slowly)
    context = server_side(authority, "127.0.0.1")

    async def poisoned(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        with contextlib.suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    server = await asyncio.start_server(poisoned, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, upstream(tls={"enabled": True, "ca": str(authority.path)}) as up:
        with pytest.raises(BackendTlsError, match="spoke before"):
            await ask(up, ready(f"{host}:{port}"))


async def test_tls_to_backends_end_to_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(server_side(authority, "127.0.0.1")) as port:
        address = f"127.0.0.1:{port}"
        for ca, status in ((str(authority.path), 200), ("", 502)):
            service = {"tls": {"enabled": True, "ca": ca}}
            async with one(service=service) as (proxy, fake):
                proxy.pool.remove(fake.address)
                proxy.pool.add_static(address)
                proxy.pool.observe(Report(address, address, ok=True))
                answer = await proxy.get("/", "Connection: close")
                assert answer.status == status
                if status == 502:
                    assert reason_of(answer.body) == "backend_tls"


# ── another configuration ─────────────────────────────────────────────────────────────────────────


async def test_connections_made_by_other_rules_are_not_used_again() -> None:
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        await ask(up, backend)
        up.configure(LimitsConfig(), ServiceConfig(max_in_flight=3))
        await ask(up, backend)
        assert fake.connections == 1
        up.configure(LimitsConfig(), ServiceConfig(send_proxy_protocol="v1"))
        await until(lambda: fake.open == 0)


async def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    async with FakeBackend() as fake, upstream() as up:
        backend = ready(fake.address)
        await ask(up, backend)
        bad = ServiceConfig.model_validate({"tls": {"enabled": True, "ca": "/nowhere.pem"}})
        limits = up.limits
        with pytest.raises(TlsError):
            up.configure(LimitsConfig(fields=9), bad)
        assert up.limits is limits
        assert await ask(up, backend) == b"ok"
        assert fake.connections == 1


async def test_of_a_backend_that_left_nothing_is_kept() -> None:
    """Whether its last exchange ends before it leaves, or after."""
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await go.wait()
        await exchange.answer()

    async with FakeBackend(script) as fake, upstream() as up:
        early, late = ready(fake.address), ready(fake.address)
        asking = [asyncio.ensure_future(ask(up, one)) for one in (early, late)]
        await until(lambda: len(fake.seen) == 2)
        late.move(Lifecycle.GONE)
        go.set()
        assert await asyncio.gather(*asking) == [b"ok", b"ok"]
        assert late not in up._held
        early.move(Lifecycle.GONE)
        up.settle()
        assert not up._held


async def test_only_what_runs_on_the_one_that_is_lost_is_given_up() -> None:
    async with FakeBackend(in_turn([hang, hang])) as fake, upstream() as up:
        lost, other = Backend("lost", fake.address), Backend("other", fake.address)
        for one in (lost, other):
            one.healthy = True
            one.move(Lifecycle.READY)
        asking = {one: asyncio.ensure_future(ask(up, one)) for one in (lost, other)}
        await until(lambda: len(fake.seen) == 2)
        up.give_up("lost", all_of_it=True)
        assert await ask(up, lost, fresh=True) == b"ok"
        assert not asking[lost].done(), "it is well: somebody else had that name before"
        lost.healthy = False
        up.give_up("lost", all_of_it=False)
        with pytest.raises(UpstreamResetError):
            await asking[lost]
        assert not asking[other].done()
        asking[other].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking[other]
