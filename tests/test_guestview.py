"""What the guests say of their own CPU, over real sockets: right, late, half, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.guestview import GuestCpu, GuestView, busy_cores, busy_seconds
from tests.fake_backend import Exchange, FakeBackend, Script, refused_address
from tests.proxy_harness import until


def metrics(busy_s: float, idle_s: float = 100.0) -> bytes:
    return (
        "# HELP guest_cpu_seconds_total CPU seconds by mode.\n"
        "# TYPE guest_cpu_seconds_total counter\n"
        f'guest_cpu_seconds_total{{mode="idle"}} {idle_s}\n'
        f'guest_cpu_seconds_total{{mode="iowait"}} 3.0\n'
        f'guest_cpu_seconds_total{{mode="system"}} 1.0\n'
        f'guest_cpu_seconds_total{{mode="guest"}} 50.0\n'
        f'guest_cpu_seconds_total{{mode="user"}} {busy_s - 1.0}\n'
    ).encode()


def test_busy_is_everything_but_idle_and_waiting_and_nothing_twice() -> None:
    """user 4 + system 1; `guest` stands in `user` already."""
    assert busy_seconds(metrics(5.0).decode()) == pytest.approx(5.0)


def test_an_application_of_another_kind_is_missing_not_idle() -> None:
    assert busy_seconds("# TYPE other gauge\nother 1\n") is None
    assert busy_seconds("") is None


def test_cores_between_two_readings() -> None:
    """0.8 s busy in 2 s: 0.4 cores."""
    before, now = GuestCpu(100.0, 5.0), 102.0
    assert busy_cores(before, GuestCpu(now, 5.8)) == pytest.approx(0.4)
    assert busy_cores(None, GuestCpu(now, 5.8)) is None
    assert busy_cores(before, GuestCpu(now, 0.1)) is None, "the guest was started again"
    assert busy_cores(before, GuestCpu(100.0, 6.0)) is None


finite = st.floats(0, 1e6)


@given(finite, finite, finite, finite)
def test_never_negative(at: float, busy: float, later: float, more: float) -> None:
    cores = busy_cores(GuestCpu(at, busy), GuestCpu(later, more))
    assert cores is None or cores >= 0


@contextlib.asynccontextmanager
async def viewing(**guests: str) -> AsyncIterator[GuestView]:
    addresses = dict(guests)
    view = GuestView(lambda: addresses, interval_s=0.01)
    await view.start()
    try:
        yield view
    finally:
        await view.stop()


def counting(*, chunks: int = 1) -> Script:
    """A guest that is busier each time it is asked, and answers in so many pieces."""
    asked = 0

    async def script(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        body = metrics(5.0 + asked)
        if chunks == 1:
            await exchange.answer(body)
            return
        await exchange.read_body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for part in range(chunks):
            await exchange.send(body[part * len(body) // chunks : (part + 1) * len(body) // chunks])
            await asyncio.sleep(0.02)

    return script


async def test_two_readings_give_a_figure() -> None:
    async with FakeBackend(counting()) as guest, viewing(web=guest.address) as view:
        await until(lambda: view.cores.get("web", 0) > 0)
        assert {seen.target for seen in guest.seen} == {b"/metrics"}


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end() -> None:
    """Cut after its first piece it would lack `user`, and the guest would seem to rest."""
    async with FakeBackend(counting(chunks=3)) as guest, viewing(web=guest.address) as view:
        await until(lambda: view.cores.get("web", 0) > 0)


async def endless(exchange: Exchange) -> None:
    await exchange.read_body()
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


async def test_a_guest_cannot_send_us_elsewhere() -> None:
    async with FakeBackend(counting()) as secret:

        async def elsewhere(exchange: Exchange) -> None:
            await exchange.read_body()
            await exchange.send(
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://%b/metrics\r\n\r\n"
                % secret.address.encode()
            )

        async with FakeBackend(elsewhere) as guest, viewing(web=guest.address) as view:
            await until(lambda: len(guest.seen) >= 3)
            assert secret.seen == []
            assert view.cores == {}


async def garbage(exchange: Exchange) -> None:
    await exchange.answer(b"{not metrics}\xff\n")


async def test_guests_that_do_not_say_are_missing_and_disturb_nobody() -> None:
    async with (
        FakeBackend(counting()) as good,
        FakeBackend(endless) as large,
        FakeBackend(garbage) as odd,
        viewing(
            web=good.address, large=large.address, odd=odd.address, gone=refused_address()
        ) as view,
    ):
        await until(lambda: view.cores.get("web", 0) > 0)
        assert set(view.cores) == {"web"}


async def test_a_guest_that_left_is_forgotten() -> None:
    async with FakeBackend(counting()) as guest:
        addresses = {"web": guest.address}
        view = GuestView(lambda: addresses, interval_s=0.01)
        await view.start()
        await until(lambda: view.cores)
        addresses.clear()
        await until(lambda: not view.cores)
        await view.stop()
