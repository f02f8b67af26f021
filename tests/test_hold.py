"""Two processes at one daemon: the first holds, the second waits, and takes over from the dead.
libvirt's own test driver is the daemon; each test has one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from autoscale.hold import Hold, is_running, this_process
from autoscale.holder import BEAT_S, STALE_S, Process, name_of
from autoscale.host import HostHeld, HostUnreachable
from autoscale.hypervisor import LibvirtHypervisor
from autoscale.link import ASK_AGAIN_S
from tests.fakes import FakeClock

INSTANCE = "0123456789abcdef"
HERE, THERE = Process("here", 10), Process("there", 20)
NODE = """<node><cpu><mhz>2000</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>
<sockets>1</sockets><cores>4</cores><threads>1</threads></cpu><memory>8388608</memory></node>"""


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "node.xml").write_text(NODE)
    conn = libvirt.open(f"test://{tmp_path / 'node.xml'}")
    yield conn
    conn.close()


def hold(clock: FakeClock, us: Process, pause: Callable[[float], object] = lambda _s: None) -> Hold:
    return Hold(us.host, INSTANCE, us, clock, libvirt.libvirtError, lambda: 1.7e9, pause)


def holders(conn: Any) -> list[str]:
    return [d.XMLDesc(2) for d in conn.listAllDomains() if d.name() == name_of(INSTANCE)]


def test_the_first_holds_and_the_second_is_told_who(conn: Any) -> None:
    clock = FakeClock()
    first, second = hold(clock, HERE), hold(clock, THERE)
    first.keep(conn, "test")
    (xml,) = holders(conn)
    assert 'host="here"' in xml.replace("'", '"')
    assert not conn.lookupByName(name_of(INSTANCE)).isActive()
    for _ in range(8):
        with pytest.raises(HostHeld, match="lbctl up on here, pid 10, acts on"):
            second.keep(conn, "test")
        first.keep(conn, "test")
        clock.advance(BEAT_S)
    first.release(conn)
    assert holders(conn) == []
    second.keep(conn, "test")
    with pytest.raises(HostHeld, match="lbctl up on there"):
        hold(clock, HERE).keep(conn, "test")
    with pytest.raises(HostUnreachable, match="let go of"):
        first.keep(conn, "test")  # a call that was under way while it was closed
    second.release(conn)
    with pytest.raises(HostUnreachable, match="let go of"):
        first.keep(conn, "test")
    assert holders(conn) == []


def test_one_that_died_is_taken_over_from_after_half_a_minute(conn: Any) -> None:
    clock = FakeClock()
    hold(clock, HERE).keep(conn, "test")
    second = hold(clock, THERE)
    with pytest.raises(HostHeld):
        second.keep(conn, "test")
    clock.advance(STALE_S - 1)
    with pytest.raises(HostHeld):
        second.keep(conn, "test")
    clock.advance(1)
    second.keep(conn, "test")
    (xml,) = holders(conn)
    assert "there" in xml


def test_one_that_stood_still_finds_out_before_it_does_anything(conn: Any) -> None:
    """Stopped, and gone on after another took over: it is certain for ten seconds only."""
    clock = FakeClock()
    first, second = hold(clock, HERE), hold(clock, THERE)
    first.keep(conn, "test")
    with pytest.raises(HostHeld):
        second.keep(conn, "test")
    clock.advance(STALE_S)
    second.keep(conn, "test")
    with pytest.raises(HostHeld, match="lbctl up on there"):
        first.keep(conn, "test")


def test_a_dead_neighbour_is_taken_over_from_at_once(conn: Any) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    us = this_process()
    clock = FakeClock()
    hold(clock, Process(us.host, done.pid, "1", us.seat)).keep(conn, "test")
    hold(clock, us).keep(conn, "test")
    hold(clock, us).keep(conn, "test")  # ours already, over another connection


class Full:
    """What its disk holds can be read and removed; nothing can be written."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def defineXML(self, _xml: str) -> None:  # noqa: N802 - libvirt's name
        raise libvirt.libvirtError("No space left on device")


def test_where_nobody_can_take_hold_nobody_acts(conn: Any) -> None:
    clock = FakeClock()
    first, second = hold(clock, HERE), hold(clock, THERE)
    for _ in range(5):
        for one in (first, second):
            with pytest.raises(HostUnreachable, match="so nothing is done there: No space left"):
                one.keep(Full(conn), "test")
        clock.advance(BEAT_S)
    first.keep(conn, "test")
    with pytest.raises(HostHeld):
        second.keep(conn, "test")


def test_whoever_holds_goes_on_where_nothing_can_be_written_and_is_not_taken_over_from(
    conn: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    first, second = hold(clock, HERE), hold(clock, THERE)
    first.keep(conn, "test")
    for _ in range(20):
        first.keep(Full(conn), "test")
        with pytest.raises((HostHeld, HostUnreachable)):
            second.keep(Full(conn), "test")
        clock.advance(STALE_S / 6)
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1
    (xml,) = holders(conn)
    assert "here" in xml
    second.keep(conn, "test")  # there is room again, and he was the first to find out
    with pytest.raises(HostHeld, match="lbctl up on there"):
        first.keep(conn, "test")  # at once, however lately it was asked


class Meanwhile:
    """Something else happens in the instant before it is called with `name`."""

    def __init__(self, conn: Any, name: str, happens: Callable[[], object]) -> None:
        self._conn, self._name, self._happens = conn, name, happens

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            happens, self._happens = self._happens, lambda: None
            happens()
        return getattr(self._conn, name)


@pytest.mark.parametrize("step", ["defineXML", "lookupByUUIDString"])
@pytest.mark.parametrize("lives", [True, False])
def test_of_two_that_find_him_gone_at_once_and_himself_one_acts(
    conn: Any, step: str, lives: bool
) -> None:
    """However they overlap: while one takes over, the other does, or he turns out to live."""
    clock = FakeClock()
    first, second, third = hold(clock, HERE), hold(clock, THERE), hold(clock, Process("far", 30))
    first.keep(conn, "test")
    for one in (second, third):
        with pytest.raises(HostHeld):
            one.keep(conn, "test")
    clock.advance(STALE_S)
    acts: list[Hold] = []

    def asks(one: Hold, over: Any) -> None:
        try:
            one.keep(over, "test")
        except (HostHeld, HostUnreachable):
            acts[:] = [other for other in acts if other is not one]
        else:
            acts.append(one)

    other = first if lives else third
    asks(second, Meanwhile(conn, step, lambda: asks(other, conn)))
    for _ in range(2):  # whoever was certain until now looks again
        clock.advance(BEAT_S)
        for one in (first, second, third):
            acts[:] = [other for other in acts if other is not one]
            asks(one, conn)
        assert len(acts) == 1
    assert len(holders(conn)) == 1


@pytest.mark.parametrize("step", ["defineXML", "lookupByUUIDString"])
def test_one_that_goes_on_while_another_takes_over_waits_until_that_is_done(
    conn: Any, step: str
) -> None:
    clock, reached, go = FakeClock(), threading.Event(), threading.Event()
    took: list[str] = []

    def finish(_s: float) -> None:
        go.set()
        thread.join(20)

    def take_over() -> None:
        def wait() -> None:
            reached.set()
            go.wait(20)

        second.keep(Meanwhile(conn, step, wait), "test")
        took.append("second")

    first, second = hold(clock, HERE, finish), hold(clock, THERE)
    first.keep(conn, "test")
    with pytest.raises(HostHeld):
        second.keep(conn, "test")
    clock.advance(STALE_S)
    thread = threading.Thread(target=take_over)
    thread.start()
    assert reached.wait(20)
    with pytest.raises(HostHeld, match="lbctl up on there"):
        first.keep(conn, "test")
    assert took == ["second"]
    assert len(holders(conn)) == 1


def test_a_holder_that_vanishes_while_it_is_looked_at_is_no_word_about_another_domain(
    conn: Any,
) -> None:
    clock = FakeClock()
    first, second = hold(clock, HERE), hold(clock, THERE)
    first.keep(conn, "test")

    class Vanishing:
        def __getattr__(self, name: str) -> Any:
            return getattr(conn, name)

        def listAllDomains(self, flags: int) -> Any:  # noqa: N802 - libvirt's name
            listed = conn.listAllDomains(flags)
            first.release(conn)
            return listed

    with pytest.raises(HostUnreachable, match="cannot be found out who acts there"):
        second.keep(Vanishing(), "test")
    second.keep(conn, "test")


def test_a_domain_of_that_name_that_is_not_ours_is_never_touched(conn: Any) -> None:
    theirs = f"<domain type='test'><name>{name_of(INSTANCE)}</name><memory>65536</memory>"
    conn.defineXML(f"{theirs}<os><type>hvm</type></os></domain>")
    (before,) = holders(conn)
    clock = FakeClock()
    one = hold(clock, HERE)
    for _ in range(4):
        with pytest.raises(HostHeld, match="lbctl did not define"):
            one.keep(conn, "test")
        clock.advance(STALE_S)
    one.release(conn)
    assert holders(conn) == [before]
    conn.lookupByName(name_of(INSTANCE)).undefine()
    hold(clock, HERE).keep(conn, "test")


def test_services_that_start_together_take_hold_together(conn: Any) -> None:
    """One of them finds out; the others wait for it, not for their next tick."""
    go, together = threading.Event(), threading.Barrier(3)
    slow = Meanwhile(conn, "listAllDomains", lambda: go.wait(20))
    first, failed = hold(FakeClock(), HERE), []

    def ask() -> None:
        together.wait(20)
        try:
            first.keep(slow, "test")
        except HostUnreachable as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    soon = threading.Timer(0.1, go.set)
    for thread in (*threads, soon):
        thread.start()
    for thread in (*threads, soon):
        thread.join(20)
    assert failed == []
    assert len(holders(conn)) == 1


def test_whoever_loses_the_race_to_define_it_is_told(conn: Any) -> None:
    clock = FakeClock()

    class Racing:
        """The other one defines his between our look and our own definition."""

        def __getattr__(self, name: str) -> Any:
            return getattr(conn, name)

        def defineXML(self, xml: str) -> Any:  # noqa: N802
            hold(clock, HERE).keep(conn, "test")
            return conn.defineXML(xml)

    with pytest.raises(HostHeld, match="lbctl up on here"):
        hold(clock, THERE).keep(Racing(), "test")
    (xml,) = holders(conn)
    assert "here" in xml


def test_nobody_waits_for_a_thread_that_finds_out(conn: Any) -> None:
    clock, looks, go = FakeClock(), threading.Event(), threading.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(conn, name)

        def listAllDomains(self, flags: int) -> Any:  # noqa: N802
            looks.set()
            go.wait(20)
            return conn.listAllDomains(flags)

    first = hold(clock, HERE)
    thread = threading.Thread(target=lambda: first.keep(Slow(), "test"))
    thread.start()
    assert looks.wait(20)
    with pytest.raises(HostUnreachable, match="finding out who acts there"):
        first.keep(conn, "test")
    go.set()
    thread.join(20)
    clock.advance(BEAT_S + 1)
    looks.clear()
    go.clear()
    thread = threading.Thread(target=lambda: first.keep(Slow(), "test"))
    thread.start()
    assert looks.wait(20)
    first.keep(conn, "test")  # it was certain a moment ago: a beat later is soon enough
    go.set()
    thread.join(20)


def test_who_runs_and_who_does_not() -> None:
    us = this_process()
    assert us.pid == os.getpid()
    assert us.seat
    assert is_running(us)
    assert not is_running(Process(us.host, us.pid, "1", us.seat)), "a later one of that number"
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert not is_running(Process(us.host, done.pid, "1", us.seat))


# --- what the adapter makes of it


async def test_an_adapter_that_is_held_off_touches_nothing_and_asks_again(tmp_path: Path) -> None:
    clock = FakeClock()
    (tmp_path / "node.xml").write_text(NODE)

    async def adapter(us: Process) -> LibvirtHypervisor:
        made = LibvirtHypervisor(
            "box", "test:///default", instance=INSTANCE, home=tmp_path,
            network="network:default", clock=clock,
        )  # fmt: skip
        made._hold = hold(clock, us)
        return made

    first, second = await adapter(HERE), await adapter(THERE)
    try:
        await first.open()
        assert await first.observe() == ()
        await second.open()
        with pytest.raises(HostHeld, match="pid 10"):
            await second.observe()
        assert "pid 10" in second.contact.holder
        with pytest.raises(HostHeld, match="pid 10"):
            await second.destroy("web-000001")
        assert second.contact.silent_s == 0
        await first.close()
        with pytest.raises(HostHeld):
            await second.observe()
        clock.advance(ASK_AGAIN_S)
        assert await second.observe() == ()
        assert second.contact.holder == ""
    finally:
        await first.close()
        await second.close()
    conn = libvirt.open("test:///default")
    assert holders(conn) == []
    conn.close()


def test_libvirt_locks_an_embedded_root_by_itself_and_a_daemon_is_held(tmp_path: Path) -> None:
    for uri, is_held in (
        ("qemu:///embed", False),
        ("test:///default", False),
        ("qemu:///session", True),
        ("qemu+ssh://box/system", True),
    ):
        made = LibvirtHypervisor("box", uri, instance=INSTANCE, home=tmp_path)
        assert (made._hold is not None) is is_held, uri
