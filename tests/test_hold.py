"""Two processes at one daemon: the first holds, the second waits, and takes over from the dead.
libvirt's own test driver is the daemon; each test has one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
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


def hold(clock: FakeClock, us: Process) -> Hold:
    return Hold(us.host, INSTANCE, us, clock, libvirt.libvirtError, lambda: 1.7e9)


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
        first.keep(conn, "test")


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


def test_a_beat_that_cannot_be_written_costs_nothing_but_a_line(
    conn: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def defineXML(self, _xml: str) -> None:  # noqa: N802 - libvirt's name
            raise libvirt.libvirtError("No space left on device")

        def listAllDomains(self, flags: int) -> Any:  # noqa: N802
            return conn.listAllDomains(flags)

    clock = FakeClock()
    first = hold(clock, HERE)
    for _ in range(3):
        first.keep(Full(), "test")
        clock.advance(BEAT_S)
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1
    first.keep(conn, "test")
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
