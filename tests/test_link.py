"""A connection that is lost, refused, hangs, and comes back; and how its calls are counted. The
connection is scripted: libvirt's own tests are in test_hypervisor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from autoscale.host import Contact, HostHeld, HostInfo, HostUnreachable, HypervisorError
from autoscale.link import ASK_AGAIN_S, THREADS, Link
from tests.fakes import FakeClock

T = TypeVar("T")

TIMEOUT_S = 1.0
"""Long enough for a thread of a busy machine to begin."""
INFO = HostInfo("box", "fake:///", "test", "", 4, 8 << 30, "9.0.0", "user", cpu_limits=True)


class Connection:
    """Lives until it is told otherwise."""

    def __init__(self) -> None:
        self.alive, self.closed = True, False

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        return self.alive


class Scripted(Link):
    """`opening` is called by each attempt to connect, and may raise or wait."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__("box", "fake:///", TIMEOUT_S, clock, lambda: 0.0)
        self.opening: Callable[[], object] = lambda: None
        self.opened: list[Connection] = []
        self.attempts = 0

    def _opened_anew(self) -> tuple[Any, HostInfo]:
        self.attempts += 1
        self.opening()
        self.opened.append(Connection())
        return self.opened[-1], INFO

    def _let_go(self, conn: Any) -> None:
        conn.closed = True

    def _translated(self, work: Callable[[], T]) -> T:
        return work()

    async def ask(self) -> Any:
        """Any call: it answers with the connection that it went over."""
        return await self._call(self._live)


@pytest.fixture
async def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def link(clock: FakeClock) -> AsyncIterator[Scripted]:
    link = Scripted(clock)
    yield link
    await link.close()


def refuse() -> None:
    raise HostUnreachable("box: connection refused")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads set no event
            await asyncio.sleep(0.005)


async def test_a_lost_connection_is_opened_again_by_the_next_call(link: Scripted) -> None:
    first = await link.ask()
    assert await link.ask() is first
    first.alive = False
    second = await link.ask()
    assert second is not first
    assert first.closed
    assert not second.closed


async def test_a_refused_connection_is_tried_again_after_2_4_8_s_and_at_once_after_a_success(
    link: Scripted, clock: FakeClock
) -> None:
    link.opening = refuse
    tried_at = []
    for _ in range(70):
        before = link.attempts
        with pytest.raises(HostUnreachable, match="connection refused"):
            await link.ask()
        if link.attempts > before:
            tried_at.append(clock.now() - 1000)
        clock.advance(1.0)
    assert tried_at == [0, 2, 6, 14, 30, 60]
    link.opening = lambda: None
    clock.advance(30)
    conn = await link.ask()
    conn.alive, link.opening = False, refuse
    for wait in (0.0, 2.0):
        before = link.attempts
        clock.advance(wait)
        with pytest.raises(HostUnreachable):
            await link.ask()
        assert link.attempts == before + 1, "it begins with two seconds again"


async def test_a_start_asks_at_once_however_lately_it_failed(link: Scripted) -> None:
    link.opening = refuse
    for expected in (1, 2):
        with pytest.raises(HostUnreachable):
            await link._call(link._opened)
        assert link.attempts == expected


async def test_one_that_hangs_in_opening_costs_a_thread_and_not_the_host(
    link: Scripted, clock: FakeClock
) -> None:
    """A host that vanished from the network answers nothing, not even no. It is asked anew, and
    what the first attempt gets in the end is let go."""
    go = threading.Event()
    link.opening = lambda: go.wait(20)
    with pytest.raises(HostUnreachable, match=r"no answer from libvirt in 1 s"):
        await link.ask()
    with pytest.raises(HostUnreachable, match="connecting to fake:///"):
        await link.ask()
    assert link.contact.hanging == 1
    link.opening = lambda: None
    clock.advance(TIMEOUT_S)
    conn = await link.ask()
    go.set()
    await until(lambda: len(link.opened) == 2)
    await until(lambda: link.contact.hanging == 0)
    (late,) = [one for one in link.opened if one is not conn]
    assert late.closed
    assert not conn.closed
    assert await link.ask() is conn


async def test_a_host_that_is_slow_to_open_is_reached_all_the_same(
    link: Scripted, clock: FakeClock
) -> None:
    """It takes longer than a call may: the first attempt gets there, while another is under way."""
    first, second = threading.Event(), threading.Event()
    waits = [first, second]
    link.opening = lambda: waits.pop(0).wait(20)
    for _ in range(2):
        with pytest.raises(HostUnreachable, match="no answer"):
            await link.ask()
        clock.advance(TIMEOUT_S)
    first.set()
    await until(lambda: link.opened)
    await until(lambda: link.contact.hanging == 1)
    assert await link.ask() is link.opened[0]
    second.set()
    await until(lambda: link.contact.hanging == 0)
    assert link.opened[1].closed
    assert await link.ask() is link.opened[0]
    assert not link.opened[0].closed


async def test_what_is_opened_while_closing_is_let_go(link: Scripted) -> None:
    go, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        go.wait(20)

    link.opening = wait
    call = asyncio.ensure_future(link.ask())
    await asyncio.to_thread(began.wait, 20)
    await link.close()
    go.set()
    with pytest.raises(HostUnreachable):
        await call
    await until(lambda: link.opened and link.opened[0].closed)
    assert link.info is None


# --- what is told of its calls


async def test_calls_are_counted_by_what_became_of_them(link: Scripted, clock: FakeClock) -> None:
    assert link.contact == Contact()

    def fail() -> None:
        raise HypervisorError("box: no")

    await link.ask()
    with pytest.raises(HypervisorError):
        await link._call(fail)
    assert link.contact == Contact(answered=1, refused=1)
    link.opened[0].alive, link.opening = False, refuse
    with pytest.raises(HostUnreachable):
        await link.ask()
    clock.advance(7)
    assert link.contact == Contact(answered=1, refused=1, lost=1, silent_s=7.0)
    with pytest.raises(HostUnreachable):
        await link.ask()
    assert link.contact.silent_s == 7.0, "since the first that was not answered"
    link.opening = lambda: None
    clock.advance(4)
    await link.ask()
    assert link.contact == Contact(answered=2, refused=1, lost=2)
    assert link.contact.calls == {"ok": 2, "error": 1, "lost": 2, "timeout": 0}


async def test_a_call_that_hangs_is_counted_and_marks_the_host_until_it_returns(
    link: Scripted,
) -> None:
    go = threading.Event()
    for number in range(1, THREADS + 1):
        with pytest.raises(HostUnreachable):
            await link._call(lambda: go.wait(20))
        assert (link.contact.timed_out, link.contact.hanging) == (number, number)
    assert link.contact.silent_s == 0
    with pytest.raises(HostUnreachable, match="4 libvirt calls hang"):
        await link.ask()
    go.set()
    await until(lambda: link.contact.hanging == 0)
    await link.ask()
    assert link.contact == Contact(answered=1, timed_out=THREADS + 1)


# --- who acts there


class Elsewhere:
    """Somebody else holds, until he does not."""

    def __init__(self) -> None:
        self.held = True
        self.holds = False
        self.beats = 0
        self.released: list[Any] = []

    def keep(self, _conn: Any, domain_type: str) -> None:
        assert domain_type == "test"
        self.holds = not self.held
        self.beats += self.holds
        if self.held:
            raise HostHeld("box: somebody else acts here")

    def release(self, conn: Any) -> None:
        self.released.append(conn)


async def test_where_somebody_else_acts_no_call_gets_through_and_he_is_asked_for_again(
    link: Scripted, clock: FakeClock
) -> None:
    hold = Elsewhere()
    link._hold = hold  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(HostHeld, match="somebody else"):
            await link.ask()
        with pytest.raises(HostHeld, match="somebody else"):
            await link.ask()
        clock.advance(ASK_AGAIN_S)
    assert link.attempts == 3, "no longer each time: he may end at any moment"
    with pytest.raises(HostHeld):
        await link.ask()
    clock.advance(ASK_AGAIN_S - 1)
    with pytest.raises(HostHeld):
        await link.ask()
    assert link.attempts == 4, "nor more often: each time a connection is opened"
    clock.advance(1)
    assert all(conn.closed for conn in link.opened)
    assert link.contact.holder == "box: somebody else acts here"
    hold.held = False
    conn = await link.ask()
    assert link.contact.holder == ""
    hold.held = True
    with pytest.raises(HostHeld):
        await link.ask()
    assert conn.closed, "he took over"
    hold.held = False
    clock.advance(ASK_AGAIN_S)
    conn = await link.ask()
    await link.close()
    assert hold.released == [conn], "let go on purpose, once"


async def test_a_holder_beats_however_seldom_it_is_called(
    link: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoscale.link.BEAT_LOOK_S", 0.001)
    hold = Elsewhere()
    link._hold = hold  # type: ignore[assignment]
    await link.open()
    await link.open()  # of another service
    await asyncio.sleep(0.01)
    assert hold.beats == 0, "it holds nothing: a look around takes nothing"
    hold.held = False
    await link.ask()
    await until(lambda: hold.beats > 3)
    hold.held = True
    await until(lambda: link.opened[0].closed)
    assert link.contact.answered == 3, "nobody called"
