"""The backend's side: aiohttp's errors in our words, connections that live no longer than due."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from lb.backend import Backend, Lifecycle
from lb.config import TimeoutsConfig
from lb.errors import (
    BadAnswerError,
    BadRequestError,
    FirstByteTimeoutError,
    RequestError,
    UpstreamResetError,
)
from lb.exchange import Onward
from lb.tasks import spawn
from lb.upstream import Upstream, translate
from tests.fake_backend import FakeBackend
from tests.proxy_harness import until


def onward(target: bytes = b"/", *fields: tuple[bytes, bytes]) -> Onward:
    return Onward("GET", target, [(b"Host", b"app"), *fields], b"id", None, False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (aiohttp.SocketTimeoutError(), FirstByteTimeoutError),
        (aiohttp.ServerDisconnectedError(), UpstreamResetError),
        (aiohttp.ClientOSError(104, "reset"), UpstreamResetError),
        (ConnectionResetError(), UpstreamResetError),
        (aiohttp.ClientPayloadError(), BadAnswerError),
    ],
)
def test_foreign_errors_are_translated(error: Exception, expected: type[RequestError]) -> None:
    assert type(translate(error)) is expected


async def test_a_connection_is_kept_between_requests_and_closed_when_the_backend_leaves() -> None:
    upstream = Upstream(TimeoutsConfig())
    async with FakeBackend() as fake:
        backend = Backend("a", fake.address)
        for _ in range(3):
            answer = await upstream.send(backend, onward(), None)
            while await answer.read():
                pass
            answer.abandon()
        assert fake.connections == 1
        upstream.settle(backend)
        assert upstream.backends() == [backend], "it may still get requests"
        backend.lifecycle = Lifecycle.DRAINING
        upstream.settle(backend)
        assert upstream.backends() == []
        await until(lambda: fake.open == 0)
    await upstream.close()


async def test_an_answer_left_half_read_closes_its_connection() -> None:
    async with FakeBackend() as fake:
        upstream = Upstream(TimeoutsConfig())
        answer = await upstream.send(Backend("a", fake.address), onward(b"/x"), None)
        assert answer.status == 200
        answer.abandon()
        await until(lambda: fake.open in (0, 1))
        await upstream.close()
        await until(lambda: fake.open == 0)


async def test_bytes_the_client_library_cannot_carry_are_refused() -> None:
    upstream = Upstream(TimeoutsConfig())
    with pytest.raises(BadRequestError):
        await upstream.send(Backend("a", "127.0.0.1:1"), onward(b"/", (b"X", b"\xe9")), None)
    await upstream.close()


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
    upstream = Upstream(TimeoutsConfig(connect=20.0))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        backend = Backend("vm", f"127.0.0.1:{port}", vm="vm")
        sending = [
            spawn(upstream.send(backend, onward(), None), name=f"request {n}") for n in range(8)
        ]
        await until(lambda: _knocking(port) >= 2)
        for _ in range(10):
            await asyncio.sleep(0.03)
            assert _knocking(port) <= 3
        accepted = []
        for _ in sending:
            connection, _ = await loop.sock_accept(listener)
            accepted.append(connection)
            await loop.sock_recv(connection, 4096)
            await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        answers = [await task for task in sending]
        assert [answer.status for answer in answers] == [200] * 8
        for answer in answers:
            answer.abandon()
        for connection in accepted:
            connection.close()
    await upstream.close()
