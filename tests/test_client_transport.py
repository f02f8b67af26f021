"""A client's connection below HTTP, on a transport of memory: who it is, and bytes to it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest

from lb.client_transport import ClientTransport
from lb.errors import ClientGoneError, ClientTimeoutError
from lb.proxy_protocol import Parsed
from tests.proxy_harness import until


class Memory:
    """A transport as far as it is used here."""

    def __init__(self, **told: Any) -> None:
        self.told = told
        self.written: list[bytes] = []
        self.closing = False
        self.held = 0

    def get_extra_info(self, name: str) -> Any:
        return self.told.get(name)

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return self.held


def connected(
    scheme: bytes = b"http", introduced: Parsed | None = None, **told: Any
) -> tuple[ClientTransport, Memory]:
    made = ClientTransport(asyncio.get_running_loop(), scheme)
    made.introduced = introduced
    memory = Memory(**told)
    made.connection_made(cast(asyncio.BaseTransport, memory))
    return made, memory


async def test_it_knows_both_ends() -> None:
    made, _ = connected(peername=("192.0.2.1", 4711), sockname=("198.51.100.1", 80))
    assert (made.peer, made.peer_port, made.local) == ("192.0.2.1", 4711, ("198.51.100.1", 80))
    assert made.local_name == b"198.51.100.1:80"
    assert not made.is_tls


async def test_an_ipv6_name_has_brackets() -> None:
    made, _ = connected(peername=("2001:db8::1", 1, 0, 0), sockname=("2001:db8::2", 80, 0, 0))
    assert (made.peer, made.local_name) == ("2001:db8::1", b"[2001:db8::2]:80")


async def test_a_proxy_header_tells_who_it_really_is() -> None:
    told = Parsed(("203.0.113.9", 99), ("198.51.100.9", 443), local=False, consumed=40)
    made, _ = connected(introduced=told, peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2))
    assert (made.peer, made.peer_port, made.local) == ("203.0.113.9", 99, ("198.51.100.9", 443))


async def test_it_says_first_that_it_stands() -> None:
    made = ClientTransport(asyncio.get_running_loop(), b"http")
    seen: list[object] = []
    made.on_made = lambda: seen.append(made.transport)
    made.connection_made(cast(asyncio.BaseTransport, Memory()))
    assert seen == [None]


async def test_final_answers_are_counted_and_interim_ones_are_not() -> None:
    made, memory = connected()
    made.write_interim(b"HTTP/1.1 100 Continue\r\n\r\n")
    made.write(b"four")
    assert made.written == 4
    assert memory.written == [b"HTTP/1.1 100 Continue\r\n\r\n", b"four"]


@pytest.mark.parametrize("how", ["lost", "closing", "closed by us"])
async def test_nothing_is_written_to_who_is_gone(how: str) -> None:
    made, memory = connected()
    if how == "lost":
        made.connection_lost(None)
    elif how == "closing":
        memory.closing = True
    else:
        made.force_close()
        assert memory.closing
    with pytest.raises(ClientGoneError):
        made.write(b"x")
    assert (made.written, memory.written) == (0, [])


async def test_who_takes_all_is_not_waited_for() -> None:
    made, _ = connected()
    await made.drain(1)
    made.pause_writing()
    made.resume_writing()
    await made.drain(1)


@pytest.fixture
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.sockets.unsent", lambda transport: transport.get_write_buffer_size())


@pytest.mark.usefixtures("_slow")
async def test_who_takes_less_is_waited_for() -> None:
    made, _ = connected()
    made.pause_writing()
    waiting = asyncio.create_task(made.drain(10))
    await until(lambda: made._drain_waiter is not None)
    assert not waiting.done()
    made.resume_writing()
    await waiting


@pytest.mark.usefixtures("_slow")
async def test_who_leaves_meanwhile_is_gone() -> None:
    made, _ = connected()
    made.pause_writing()
    waiting = asyncio.create_task(made.drain(10))
    await until(lambda: made._drain_waiter is not None)
    made.connection_lost(None)
    with pytest.raises(ClientGoneError):
        await waiting


@pytest.mark.usefixtures("_slow")
async def test_who_takes_nothing_at_all_is_given_up() -> None:
    made, memory = connected()
    made.pause_writing()
    memory.held = 10
    with pytest.raises(ClientTimeoutError):
        await made.drain(0.01)


@pytest.mark.usefixtures("_slow")
async def test_a_waiting_that_is_cancelled_leaves_nothing() -> None:
    made, _ = connected()
    made.pause_writing()
    waiting = asyncio.create_task(made.drain(10))
    await until(lambda: made._drain_waiter is not None)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert made._drain_waiter is None
    made.resume_writing()
