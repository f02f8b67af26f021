"""Sockets below asyncio: bound as told or not at all, reset so that the peer notices."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lb import sockets
from lb.errors import ListenError
from tests.proxy_harness import until


def test_what_is_bound_can_be_connected_to_and_is_named() -> None:
    (bound,) = sockets.bind("127.0.0.1:0")
    host, _, port = sockets.name_of(bound).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass
    sockets.close([bound])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=10)


def test_ipv6_is_named_in_brackets_and_leaves_ipv4_alone() -> None:
    (bound,) = sockets.bind("[::1]:0")
    assert sockets.name_of(bound).startswith("[::1]:")
    every = sockets.bind("[::]:0")
    port = every[0].getsockname()[1]
    beside = sockets.bind(f"0.0.0.0:{port}")
    sockets.close([bound, *every, *beside])


def test_a_taken_address_is_an_error_that_names_the_setting() -> None:
    (first,) = sockets.bind("127.0.0.1:0")
    with pytest.raises(ListenError, match=r"address in use.*proxy\.listen"):
        sockets.bind(sockets.name_of(first))
    first.close()


def test_a_name_nobody_knows_is_one_clear_line() -> None:
    with pytest.raises(ListenError) as caught:
        sockets.bind("no-such-name.invalid:80")
    assert "\n" not in str(caught.value)


async def test_a_reset_is_no_clean_end() -> None:
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        await until(lambda: accepted)
        sockets.reset(accepted[0].transport)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
