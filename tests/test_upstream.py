"""The backend's side: aiohttp's errors in our words, connections that live no longer than due."""

from __future__ import annotations

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
