"""What `bench connections` holds and calls a miss. The run: `./run bench connections`."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import replace

import pytest

from bench.connections import Idle, Slowed, middle_idle, middle_slowed, misses, report
from bench.parts.fast_backend import CANNED, Exchange
from bench.parts.idle import SOURCES, held

IDLES = [Idle("haproxy", 100, 1000, 900), Idle("ours", 100, 1500, 9000)]
SLOWS = [
    Slowed("haproxy", 100, 100, 0.001, 0.002, 0.002, 0.004, 0.001, 0.003),
    Slowed("ours", 100, 99, 0.001, 0.002, 0.002, 0.004, 0.001, 0.004),
]


def test_one_and_a_half_times_haproxys_memory_is_within_the_goal() -> None:
    assert misses(IDLES, SLOWS) == []


def test_more_is_a_miss() -> None:
    (missed,) = misses([IDLES[0], replace(IDLES[1], asked_bytes=1600)], SLOWS)
    assert "1.60 times HAProxy's" in missed


def test_others_may_be_slowed_as_much_as_haproxys_and_half_as_much_again() -> None:
    (missed,) = misses(IDLES, [SLOWS[0], replace(SLOWS[1], beside_p99_s=0.0046)])
    assert "2.30 times as long, HAProxy's 1.50" in missed


def test_where_haproxys_are_not_slowed_half_as_long_again_is_still_allowed() -> None:
    quick = replace(SLOWS[0], beside_p99_s=0.001)
    assert misses(IDLES, [quick, replace(SLOWS[1], beside_p99_s=0.003)]) == []
    assert misses(IDLES, [quick, replace(SLOWS[1], beside_p99_s=0.0031)])


def test_whoever_could_not_be_held_or_answered_is_said() -> None:
    found = misses(IDLES, [replace(SLOWS[0], held=98), replace(SLOWS[1], failed="3 errors")])
    assert found == ["haproxy: only 98 of 100 slow clients were held", "ours: 3 errors"]


def test_without_haproxy_there_is_nothing_to_compare() -> None:
    assert misses([replace(IDLES[1], asked_bytes=1e9)], SLOWS[1:]) == []


def test_rounds_count_by_their_median_and_by_the_worst_of_what_went_wrong() -> None:
    idles = [replace(IDLES[1], asked_bytes=n) for n in (1, 2, 90)]
    assert middle_idle(idles, "ours").asked_bytes == 2
    slows = [replace(SLOWS[1], beside_p99_s=n, held=int(n)) for n in (3, 1, 2)]
    slows[2] = replace(slows[2], failed="cut")
    middle = middle_slowed(slows, "ours")
    assert (middle.beside_p99_s, middle.held, middle.failed) == (2, 1, "cut")


def test_the_report_has_a_line_for_each_proxy() -> None:
    lines = report(IDLES, SLOWS)
    assert "1.46 KiB | 1.50" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


class Noted(Exchange):
    """Keeps from where it was asked, and what for."""

    peers: list[str]
    asked: list[bytes]
    all_there: threading.Event

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peers.append(transport.get_extra_info("peername")[0])
        if len(self.peers) == 2 * SOURCES:
            self.all_there.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.asked.append(data.split(b" ")[1])


@pytest.mark.parametrize("asked", [True, False])
async def test_connections_come_from_several_addresses_and_ask_where_they_should(
    asked: bool,
) -> None:
    Noted.peers, Noted.asked, Noted.all_there = [], [], threading.Event()
    server = await asyncio.get_running_loop().create_server(Noted, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]

        def hold() -> None:
            with held(port, 2 * SOURCES, asked=asked):
                assert Noted.all_there.wait(20)

        await asyncio.to_thread(hold)
    assert len(set(Noted.peers)) == SOURCES
    assert Noted.asked == ([b"/42"] * 2 * SOURCES if asked else [])


def test_a_server_that_hangs_up_is_not_taken_for_one_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(OSError), held(port, 1, asked=False):  # noqa: PT011 - any will do
        pass


def test_the_canned_answer_is_the_one_that_is_waited_for() -> None:
    assert CANNED[b"/42"].endswith(b"\r\n\r\n" + b"x" * 42)
