"""Messages between processes: whole, in order, however the bytes come; and sockets with them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.worker_link import MOST_SOCKETS, Link, LinkClosedError, Message, pack

PATIENCE_S = 20.0


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Link, Link]]:
    one, other = (Link(end) for end in socket.socketpair())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield one, other
    finally:
        one.close()
        other.close()


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6))
def test_what_is_sent_arrives_whole_and_in_order(messages: list[Message]) -> None:
    async def exchange() -> list[Message]:
        async with pair() as (one, other):
            for message in messages:
                one.send(pack(message))
            return [(await other.receive())[0] for _ in messages]

    assert asyncio.run(exchange()) == messages


async def test_a_message_larger_than_any_buffer_waits_in_memory_and_arrives() -> None:
    big = {"text": "x" * 5_000_000}
    async with pair() as (one, other):
        one.send(pack(big))
        one.send(pack({"then": 1}))
        flushed = asyncio.ensure_future(one.flush())
        await asyncio.sleep(0)
        assert not flushed.done()
        assert (await other.receive())[0] == big
        assert (await other.receive())[0] == {"then": 1}
        await flushed


async def test_messages_come_out_of_the_middle_of_what_was_read() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    try:
        whole = b"".join(
            len(packed).to_bytes(4, "big") + b"\0" + packed
            for packed in (pack({"n": n}) for n in range(3))
        )
        for begin in range(0, len(whole), 3):
            theirs.send(whole[begin : begin + 3])
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            assert [(await link.receive())[0]["n"] for _ in range(3)] == [0, 1, 2]
    finally:
        link.close()
        theirs.close()


async def test_listening_sockets_go_with_their_message_even_if_closed_here_meanwhile() -> None:
    async with pair() as (one, other):
        # the first fills the buffer, so that the second has to wait
        one.send(pack({"text": "x" * 2_000_000}))
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [held.getsockname()[1] for held in listening]
        one.send(pack({"n": 2}), listening[:2])
        one.send(pack({"n": 1}), listening[2:])
        for held in listening:
            held.close()
        await other.receive()
        found = []
        for _ in range(2):
            message, came = await other.receive()
            assert len(came) == message["n"]
            found += came
        assert [held.getsockname()[1] for held in found] == ports
        for held, port in zip(found, ports, strict=True):
            with held, socket.create_connection(("127.0.0.1", port)):
                held.accept()[0].close()


async def test_more_sockets_than_the_kernel_takes_are_refused() -> None:
    async with pair() as (one, _):
        with socket.socket() as held, pytest.raises(ValueError, match="250 are the most"):
            one.send(pack({}), [held] * (MOST_SOCKETS + 1))


async def test_what_came_before_the_end_is_still_received() -> None:
    async with pair() as (one, other):
        one.send(pack({"last": True}))
        one.close()
        assert (await other.receive())[0] == {"last": True}
        with pytest.raises(LinkClosedError):
            await other.receive()
        with pytest.raises(LinkClosedError):
            await one.receive()
        one.send(pack({}))  # to nobody
        other.send(pack({}))
        await other.flush()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_nothing_stays_open_of_what_was_never_sent() -> None:
    before = open_files()
    async with pair() as (one, _):
        one.send(pack({"text": "x" * 2_000_000}))
        with socket.create_server(("127.0.0.1", 0)) as held:
            one.send(pack({}), [held])
    assert open_files() == before
