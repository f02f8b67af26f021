"""What `bench stream` moves and calls a miss. The run: `./run bench stream`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from bench.parts.bulk import download, upload
from bench.parts.fast_backend import Exchange, answer
from bench.stream import MIB, Streamed, misses, ratio, report

PEER = Streamed("haproxy", "down", 1, 1000 * MIB, 1.0, 0.5, 0)
OURS = replace(PEER, proxy="ours", seconds=2.0, growth=16 * MIB)


def test_half_of_haproxys_throughput_and_a_bounded_buffer_are_enough() -> None:
    assert misses([PEER, OURS]) == []


def test_less_and_more_are_misses() -> None:
    slow = replace(OURS, seconds=2.1, growth=17 * MIB)
    throughput, memory = misses([PEER, slow])
    assert "0.48 of HAProxy's" in throughput
    assert "grew by 17.0 MiB" in memory


def test_each_round_is_compared_with_its_own_and_the_median_counts() -> None:
    found = []
    for number, (peer_s, ours_s) in enumerate([(1, 2), (4, 4), (1, 8)]):
        found.append(replace(PEER, round=number, seconds=peer_s))
        found.append(replace(OURS, round=number, seconds=ours_s))
    assert ratio(found, "down", "ours") == 0.5
    assert ratio(found, "up", "ours") is None


def test_memory_that_grew_once_counts() -> None:
    assert misses([PEER, OURS, replace(OURS, way="up", round=2, growth=20 * MIB)])


def test_the_report_says_megabytes_a_second() -> None:
    lines = report([PEER, OURS])
    assert lines[3] == "| download | ours | 500 | 0.50 | 0.51 s | 16.0 MiB |"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("size", [1, 3 * MIB + 5])
async def test_every_byte_arrives_both_ways(port: int, size: int) -> None:
    await asyncio.to_thread(download, port, size)
    await asyncio.to_thread(upload, port, size)


class Wrong(asyncio.Protocol):
    """Answers other lengths than asked for, and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(answer(b"12"))  # type: ignore[attr-defined]
        self.transport.close()


async def test_what_is_cut_or_counted_otherwise_does_not_pass() -> None:
    server = await asyncio.get_running_loop().create_server(Wrong, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ValueError, match="no answer of 5 bytes"):
            await asyncio.to_thread(download, port, 5)
        with pytest.raises(ValueError, match="backend says"):
            await asyncio.to_thread(upload, port, 5)
