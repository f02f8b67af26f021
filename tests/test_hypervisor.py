"""The libvirt adapter against libvirt's own test driver: in-process, no QEMU, no daemon.

Each test has a connection of its own (`test://FILE`, where domains live as long as it), so that
none sees another's machines.
"""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.backoff import Reconnect
from autoscale.domain_xml import DomainXmlError, Identity, VmSpec
from autoscale.host import (
    DiskFull,
    DomainRefused,
    HostUnreachable,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    PowerState,
)
from autoscale.hypervisor import LibvirtHypervisor
from autoscale.link import THREADS
from autoscale.model import Sample
from autoscale.signals import signal_between
from autoscale.threads import DaemonThreads

NODE = """<node><cpu><mhz>2000</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>
<sockets>1</sockets><cores>4</cores><threads>1</threads></cpu><memory>8388608</memory>
<domain type='test'><name>database</name><memory>65536</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os></domain>
<domain type='test'><name>web-theirs</name>
<metadata><lbctl:replica xmlns:lbctl='urn:lbctl:replica:1' instance='theirs' service='web'
 generation='g' app_port='8080' cpu_limit='1.0' created_at='1.0' host_port='0' phase='serving'/>
</metadata><memory>65536</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os></domain>
</node>"""


def spec(name: str = "web-000001", number: int = 1) -> VmSpec:
    identity = Identity("ours", "web", "generation-1", 8080, 0.4, 1.7e9)
    uuid = f"b5a4b7a6-0000-4000-8000-{number:012}"
    return VmSpec(name, uuid, 64, 1, "/k", "/i", "/d", "quiet", identity)


def make(folder: Path, uri: str = "", timeout: float = 20.0) -> LibvirtHypervisor:
    node = folder / "node.xml"
    node.write_text(NODE)
    return LibvirtHypervisor(
        "local",
        uri or f"test://{node}",
        instance="ours",
        home=folder,
        network="network:default",
        call_timeout=timeout,
    )


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LibvirtHypervisor]:
    hypervisor = make(tmp_path)
    await hypervisor.open()
    yield hypervisor
    await hypervisor.close()


async def powers(host: LibvirtHypervisor) -> dict[str, PowerState]:
    return {d.name: d.power for d in await host.observe()}


def everybody(host: LibvirtHypervisor) -> set[str]:
    return {d.name() for d in host._conn.listAllDomains()}


# --- a machine's life


async def test_what_a_host_says_of_itself(tmp_path: Path) -> None:
    host = make(tmp_path, "test:///default")
    info = await host.open()
    assert (info.name, info.domain_type, info.cpu_limits) == ("local", "test", False)
    assert info.cores > 0
    assert info.memory_bytes > 1 << 20
    assert info.libvirt_version.count(".") == 2
    await host.close()


async def test_from_creation_to_gone(host: LibvirtHypervisor) -> None:
    identity = await host.create(spec())
    assert identity == spec().identity, "no forwarded port on a libvirt network"
    (domain,) = await host.observe()
    assert (domain.name, domain.power) == ("web-000001", PowerState.RUNNING)
    assert domain.identity == identity
    assert domain.uuid == spec().uuid
    assert domain.sample is None, "the test driver has no counters: missing, not zero"
    await host.destroy("web-000001")
    assert await host.observe() == ()


async def test_gone_already_is_success(host: LibvirtHypervisor) -> None:
    await host.create(spec())
    await host.destroy("web-000001")
    await host.destroy("web-000001")


@pytest.mark.parametrize("runs", [True, False])
async def test_one_that_somebody_defined_goes_for_good(host: LibvirtHypervisor, runs: bool) -> None:
    """Off and defined it would be listed for ever, and count."""
    await host.create(spec())
    theirs = host._conn.lookupByName("web-000001")
    host._conn.defineXML(theirs.XMLDesc(0))
    if not runs:
        theirs.destroy()
    assert await powers(host) == {"web-000001": PowerState.RUNNING if runs else PowerState.OFF}
    await host.destroy("web-000001")
    assert "web-000001" not in everybody(host)


async def test_metadata_is_rewritten_live_and_found_by_a_successor(tmp_path: Path) -> None:
    """`test:///default` is shared within a process: a second connection sees the same machines."""
    first = make(tmp_path, "test:///default")
    await first.open()
    identity = await first.create(spec("web-adopted", 7))
    await first.set_identity("web-adopted", identity.with_phase("draining"))
    assert (await first.observe())[0].identity.phase == "draining"
    successor = make(tmp_path, "test:///default")
    await successor.open()
    await first.close()
    (found,) = await successor.observe()
    assert (found.name, found.identity.phase) == ("web-adopted", "draining")
    await successor.destroy("web-adopted")
    await successor.close()


async def test_starts_and_stops_are_told_on_the_event_loop(host: LibvirtHypervisor) -> None:
    heard: list[tuple[str, threading.Thread]] = []
    changed = asyncio.Event()

    def hear(name: str) -> None:
        heard.append((name, threading.current_thread()))
        changed.set()

    host.on_change(hear)
    await host.create(spec())
    await host.destroy("web-000001")
    async with asyncio.timeout(20):
        while len(heard) < 2:
            changed.clear()
            await changed.wait()
    assert {name for name, _ in heard} == {"web-000001"}
    assert {thread for _, thread in heard} == {threading.current_thread()}


# --- ownership


async def test_machines_that_are_not_ours_are_not_even_listed(host: LibvirtHypervisor) -> None:
    await host.create(spec())
    assert await powers(host) == {"web-000001": PowerState.RUNNING}
    assert everybody(host) == {"web-000001", "database", "web-theirs"}


@pytest.mark.parametrize("name", ["database", "web-theirs"])
async def test_machines_that_are_not_ours_are_never_touched(
    host: LibvirtHypervisor, name: str
) -> None:
    before = host._conn.lookupByName(name).XMLDesc(0)
    await host.destroy(name)
    identity = spec().identity
    calls: list[Callable[[], Any]] = [
        lambda: host.shutdown(name),
        lambda: host.set_cpu_limit(name, 0.1),
        lambda: host.set_identity(name, identity),
        lambda: host.address(name, identity),
    ]
    for call in calls:
        with pytest.raises(NoSuchDomain, match="not a domain of ours"):
            await call()
    domain = host._conn.lookupByName(name)
    assert domain.isActive()
    assert domain.XMLDesc(0) == before


# --- addresses


class Answering:
    """A connection whose domains answer `interfaceAddresses` by script: by source, or an error."""

    def __init__(self, conn: Any, answers: dict[int, Any]) -> None:
        self._conn = conn
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def lookupByName(self, name: str) -> Any:  # noqa: N802 - libvirt's name
        return Answering(self._conn.lookupByName(name), self._answers)

    def interfaceAddresses(self, source: int) -> Any:  # noqa: N802
        if source not in self._answers:
            raise libvirt.libvirtError("not configured")
        return self._answers[source]


def interface(*addresses: str) -> dict[str, Any]:
    kinds = [libvirt.VIR_IP_ADDR_TYPE_IPV6 if ":" in a else 0 for a in addresses]
    found = [{"addr": a, "type": kind} for a, kind in zip(addresses, kinds, strict=True)]
    return {"hwaddr": "52:54:00:00:00:01", "addrs": found or None}


LEASE = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE
AGENT = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
ARP = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP


@pytest.mark.parametrize(
    ("answers", "address"),
    [
        pytest.param({LEASE: {"vnet0": interface("10.0.0.5")}}, "10.0.0.5:8080", id="lease"),
        pytest.param(
            {LEASE: {}, AGENT: {"lo": interface("127.0.0.1"), "eth0": interface("10.0.0.6")}},
            "10.0.0.6:8080",
            id="agent, where a bridge has no leases",
        ),
        pytest.param(
            {LEASE: {}, ARP: {"vnet0": interface("10.0.0.7")}}, "10.0.0.7:8080", id="no agent"
        ),
        pytest.param({LEASE: {"vnet0": interface()}}, None, id="no address yet"),
        pytest.param({AGENT: {"eth0": interface("fe80::1")}}, None, id="no IPv4 address yet"),
        pytest.param({AGENT: {"eth0": interface("127.0.0.2")}}, None, id="our own loopback"),
        pytest.param({}, None, id="nobody knows"),
    ],
)
async def test_an_address_comes_from_whoever_knows_it(
    host: LibvirtHypervisor, answers: dict[int, Any], address: str | None
) -> None:
    identity = await host.create(spec())
    host._conn = Answering(host._conn, answers)
    assert await host.address("web-000001", identity) == address


# --- errors


async def test_a_domain_that_is_refused_says_so_in_one_line(host: LibvirtHypervisor) -> None:
    await host.create(spec())
    with pytest.raises(DomainRefused) as caught:
        await host.create(spec("web-000002"))  # the same UUID
    assert str(caught.value).startswith("local refuses web-000002: ")
    assert "\n" not in str(caught.value)
    assert await powers(host) == {"web-000001": PowerState.RUNNING}


async def test_what_the_driver_cannot_do_is_a_word_of_ours(host: LibvirtHypervisor) -> None:
    await host.create(spec())
    with pytest.raises(LimitUnsupported, match="cannot limit CPU"):
        await host.set_cpu_limit("web-000001", 0.4)
    with pytest.raises(HypervisorError):
        await host.shutdown("web-000001")  # the test driver knows no power button
    with pytest.raises(NoSuchDomain):
        await host.shutdown("web-999999")
    assert await host.console_tail("web-000001") == ""


async def test_a_host_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    host = make(tmp_path, f"test://{tmp_path}/missing.xml")
    with pytest.raises(HostUnreachable, match=r"cannot open test://.*missing\.xml"):
        await host.open()
    with pytest.raises(HostUnreachable):
        await host.observe()
    await host.close()


async def test_a_host_that_comes_later_is_found_by_itself(tmp_path: Path) -> None:
    """Tried again at most every 2 s, by whichever call comes."""
    now = [100.0]
    path = tmp_path / "later.xml"
    host = LibvirtHypervisor(
        "local", f"test://{path}", instance="ours", home=tmp_path, clock=lambda: now[0]
    )
    with pytest.raises(HostUnreachable):
        await host.observe()
    path.write_text(NODE)
    now[0] += 1.9
    with pytest.raises(HostUnreachable, match=r"later\.xml"):
        await host.observe()
    now[0] += 0.2
    assert await host.observe() == ()
    await host.close()


async def test_after_closing_every_call_is_unreachable_and_nothing_else(
    host: LibvirtHypervisor,
) -> None:
    await host.create(spec())
    await host.close()
    with pytest.raises(HostUnreachable, match="closed"):
        await host.observe()
    with pytest.raises(HostUnreachable):
        await host.destroy("web-000001")


# --- calls that hang


class Slow:
    """A connection whose `createXML` and listing wait until they are let go."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self.go = threading.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._conn, name)
        if name not in ("createXML", "getAllDomainStats"):
            return found

        def waiting(*arguments: Any) -> Any:
            self.go.wait(20)
            return found(*arguments)

        return waiting


async def test_a_call_that_hangs_costs_one_thread_and_gives_unreachable(tmp_path: Path) -> None:
    host = make(tmp_path, timeout=0.2)
    await host.open()
    await host.create(spec())
    real = host._conn
    slow = host._conn = Slow(real)
    with pytest.raises(HostUnreachable, match=r"no answer from libvirt in 0\.2 s"):
        await host.observe()
    await host.set_identity("web-000001", spec().identity)  # the other threads still serve
    for _ in range(THREADS - 1):
        with pytest.raises(HostUnreachable, match="no answer"):
            await host.observe()
    # all of them hang: the next is told at once, and no further thread is tied up
    with pytest.raises(HostUnreachable, match="4 libvirt calls hang"):
        await host.observe()
    assert sum(t.name.startswith("libvirt-local") for t in threading.enumerate()) >= THREADS
    slow.go.set()
    host._conn = real
    async with asyncio.timeout(20):
        while True:
            try:
                assert len(await host.observe()) == 1
                break
            except HostUnreachable:
                await asyncio.sleep(0.01)
    await host.close()


async def test_a_creation_given_up_leaves_no_machine_behind(tmp_path: Path) -> None:
    """The call timed out; when libvirt gets round to it, nobody counts that machine any more."""
    host = make(tmp_path, timeout=0.2)
    await host.open()
    real = host._conn
    slow = host._conn = Slow(real)
    with pytest.raises(HostUnreachable):
        await host.create(spec())
    slow.go.set()
    host._conn = real
    async with asyncio.timeout(20):
        while any(not f.done() for f in host._calls.hanging):  # noqa: ASYNC110 - threads set no event
            await asyncio.sleep(0.01)
    assert await host.observe() == ()
    assert everybody(host) == {"database", "web-theirs"}
    await host.close()


def test_a_call_that_never_returns_does_not_keep_the_process_from_ending() -> None:
    script = (
        "import asyncio, threading\n"
        "from pathlib import Path\n"
        "from autoscale.host import HostUnreachable\n"
        "from autoscale.hypervisor import LibvirtHypervisor\n"
        "async def main():\n"
        "    host = LibvirtHypervisor('local', 'test:///default', instance='ours',\n"
        "                             home=Path('.'), call_timeout=0.1)\n"
        "    try:\n"
        "        await host._call(threading.Event().wait)\n"
        "    except HostUnreachable:\n"
        "        print('unreachable')\n"
        "    await host.close()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "unreachable"), done.stderr


@given(st.lists(st.booleans(), max_size=20))
def test_threads_hand_back_what_the_work_gave_or_raised(works: list[bool]) -> None:
    threads = DaemonThreads(2, "test")

    def work(good: bool) -> str:
        if not good:
            raise KeyError("bad")
        return "good"

    futures = [threads.submit(lambda good=good: work(good)) for good in works]  # type: ignore[misc]
    for good, future in zip(works, futures, strict=True):
        assert (future.exception(20) is None) == good
    threads.close()
    with pytest.raises(RuntimeError):
        threads.submit(lambda: None)


class Interrupted:
    """A connection that calls `between` in the middle of a listing, after its first rows."""

    def __init__(self, conn: Any, between: Callable[[], None]) -> None:
        self._conn = conn
        self._between = between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def getAllDomainStats(self, *arguments: Any) -> Any:  # noqa: N802 - libvirt's name
        yield from self._conn.getAllDomainStats(*arguments)
        self._between()


async def test_a_limit_set_during_a_listing_is_not_forgotten(host: LibvirtHypervisor) -> None:
    """Forgotten, its utilisation would be divided by a whole core: never overloaded again."""
    await host.create(spec())
    host._conn = Interrupted(host._conn, lambda: host._known.change(spec().uuid, limit_cores=0.4))
    await host.observe()
    known = host._known.get(spec().uuid)
    assert known is not None
    assert known.limit_cores == 0.4


# --- counters


class Counting:
    """A connection whose domains have counters, and whose listing takes as long as it is told."""

    def __init__(self, conn: Any, cpu_ns: int = 0, took: Callable[[], None] = lambda: None) -> None:
        self._conn = conn
        self.cpu_ns = cpu_ns
        self._took = took

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def getAllDomainStats(self, *arguments: Any) -> Any:  # noqa: N802 - libvirt's name
        self._took()
        used = {"cpu.time": self.cpu_ns, "vcpu.current": 1, "vcpu.0.time": self.cpu_ns}
        return [(d, {**stats, **used}) for d, stats in self._conn.getAllDomainStats(*arguments)]


async def sample_of(host: LibvirtHypervisor) -> Sample | None:
    (domain,) = await host.observe()
    return domain.sample


async def test_a_machine_that_is_started_again_counts_for_another_run(
    host: LibvirtHypervisor,
) -> None:
    """The same name and UUID, and by chance as much CPU as before: no difference of the two."""
    counting = host._conn = Counting(host._conn, 5_000_000_000)
    await host.create(spec())
    first, same = await sample_of(host), await sample_of(host)
    await host.destroy("web-000001")
    await host.create(spec())
    counting.cpu_ns += 1_000_000
    again = await sample_of(host)
    assert first is not None
    assert same is not None
    assert again is not None
    assert first.run == same.run != again.run
    assert signal_between(first, replace(again, at=first.at + 1), 1.0) is None
    assert signal_between(first, replace(again, at=first.at + 1, run=first.run), 1.0) is not None


async def test_a_machine_that_moved_counts_for_another_run(tmp_path: Path) -> None:
    """Both hosts may give it the same number."""
    runs = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        host = make(folder)
        host._name = name
        await host.open()
        host._conn = Counting(host._conn)
        await host.create(spec())
        sample = await sample_of(host)
        assert sample is not None
        runs.append(sample.run)
        await host.close()
    assert runs[0] != runs[1]


@pytest.mark.parametrize(("took_s", "known"), [(0.01, True), (0.9, False)])
async def test_a_slow_listing_brings_machines_and_no_samples(
    tmp_path: Path, took_s: float, known: bool
) -> None:
    now = [100.0]

    def took() -> None:
        now[0] += took_s

    host = make(tmp_path)
    host._clock = lambda: now[0]
    await host.open()
    await host.create(spec())
    host._conn = Counting(host._conn, 10, took)
    (domain,) = await host.observe()
    assert (domain.sample is not None) == known
    assert domain.power is PowerState.RUNNING
    await host.close()


# --- reconnecting


class Dead:
    """A connection that is lost, and remembers whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
        return False

    def close(self) -> None:
        self.closed += 1


async def test_four_calls_that_find_the_connection_lost_open_one_and_close_the_old(
    host: LibvirtHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, go, really = Dead(), threading.Event(), libvirt.open
    opened: list[str] = []

    def slowly(uri: str) -> Any:
        opened.append(uri)
        go.wait(20)
        return really(uri)

    host._conn = dead
    monkeypatch.setattr("libvirt.open", slowly)
    calls = [asyncio.ensure_future(host.observe()) for _ in range(THREADS)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(next(iter(done)).exception(), HostUnreachable), "the others do not wait"
    go.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(a, HostUnreachable) for a in answers) == THREADS - 1
    assert (len(opened), dead.closed) == (1, 1)
    assert await host.observe() == ()


async def test_a_connection_opened_while_closing_is_let_go_again(tmp_path: Path) -> None:
    host = make(tmp_path)
    host._closed = True
    with pytest.raises(HostUnreachable, match="closed"):
        await host._run(host._opened)
    assert host._conn is None
    assert host.info is None
    await host.close()


async def test_whatever_is_opened_is_closed_and_hears_of_nothing_afterwards(
    host: LibvirtHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt closes no connection that has a callback: it would keep its socket, and go on
    telling of every change, once more with each time a host was lost or asked who acts there."""
    closed: list[int] = []

    class Connected(libvirt.virConnect):  # type: ignore[misc]
        alive = True

        def isAlive(self) -> bool:  # noqa: N802 - libvirt's name
            return self.alive

        def close(self) -> int:
            closed.append(super().close())  # how many still refer to it
            return closed[-1]

    def open_another(uri: str) -> Any:
        really = connect(uri)
        conn = Connected(_obj=really._o)
        really._o = None
        return conn

    connect, really_describe = libvirt.open, host._describe
    monkeypatch.setattr("libvirt.open", open_another)
    heard: list[str] = []
    host.on_change(heard.append)
    await host._run(lambda: host._let_go(host._conn))
    host._conn = None
    for _ in range(3):
        await host.observe()
        host._conn.alive = False
    assert closed == [0, 0]

    def fails(_conn: Any) -> Any:
        raise DomainXmlError("what a host says of itself is not XML")

    monkeypatch.setattr(host, "_describe", fails)
    with pytest.raises(HypervisorError):
        await host.observe()
    assert closed == [0, 0, 0, 0]
    monkeypatch.setattr(host, "_describe", really_describe)
    host._retry = Reconnect()
    await host.create(spec())
    async with asyncio.timeout(20):
        while not heard:  # noqa: ASYNC110 - libvirt's thread sets no event
            await asyncio.sleep(0.01)
    await host.destroy("web-000001")
    async with asyncio.timeout(20):
        while len(heard) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert heard == ["web-000001", "web-000001"], "a start and an end, once each"
    await host.close()
    assert closed == [0] * 5


async def test_two_services_that_open_one_host_share_its_connection(
    host: LibvirtHypervisor,
) -> None:
    conn = host._conn
    assert await host.open() == host.info
    assert host._conn is conn


# --- what is told, and what is translated


async def test_other_machines_comings_and_goings_wake_nobody(host: LibvirtHypervisor) -> None:
    heard: list[str] = []
    host.on_change(heard.append)
    await host.observe()
    theirs = host._conn.lookupByName("web-theirs")
    theirs.suspend()
    theirs.resume()
    await host.create(spec())
    async with asyncio.timeout(20):
        while not heard:  # noqa: ASYNC110 - libvirt's thread sets no event
            await asyncio.sleep(0.01)
    assert set(heard) == {"web-000001"}


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("not XML")])
async def test_whatever_a_call_raises_is_a_word_of_ours(
    host: LibvirtHypervisor, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(HypervisorError, match=r"^local: .*(Too many open files|not XML)"):
        await host._call(fail)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        libvirt.libvirtError("operation failed: unable to write: No space left on device"),
    ],
)
async def test_a_full_disk_is_told_as_that_whoever_found_out(
    host: LibvirtHypervisor, error: Exception
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(DiskFull, match=r"^local: .*; make room on that host's disk"):
        await host._call(fail)


async def test_a_limit_that_could_not_be_set_this_time_is_tried_again(
    host: LibvirtHypervisor,
) -> None:
    await host.create(spec())
    with pytest.raises(NoSuchDomain):
        await host.set_cpu_limit("web-999999", 0.4)
    with pytest.raises(LimitUnsupported):
        await host.set_cpu_limit("web-000001", 0.4)
    await host.destroy("web-000001")
    with pytest.raises(HypervisorError) as caught:
        await host.set_cpu_limit("web-000001", 0.4)
    assert not isinstance(caught.value, LimitUnsupported)


async def test_a_first_listing_sweeps_the_consoles(tmp_path: Path) -> None:
    host = make(tmp_path)
    host._local_files = True  # as on qemu:///session
    left = tmp_path / "console" / "local@web-long-gone.log"
    left.parent.mkdir()
    left.write_text("x")
    await host.observe()
    assert not left.exists()
    await host.close()


# --- disks of their own


def own(folder: Path, name: str = "web-000001", number: int = 1) -> VmSpec:
    image = folder / "user" / "cloud.img"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(b"as it is")
    whole = replace(spec(name, number), own_disk=True, disk=str(image), disk_bytes=1 << 20)
    return replace(whole, kernel="", initrd="", cmdline="")


def files(folder: Path) -> set[str]:
    """What lies in our home for VMs."""
    return {path.name for path in folder.rglob("*") if not path.is_dir()} - {"node.xml"}


def holds(path: str, content: bytes) -> bool:
    return Path(path).read_bytes() == content


async def test_what_a_vm_writes_to_goes_with_it(tmp_path: Path) -> None:
    host = make(tmp_path)
    host._local_files = True  # as on qemu:///session
    await host.open()
    wanted = own(tmp_path)
    await host.create(wanted)
    assert files(tmp_path / "disks") == {"web-000001", "web-000001.iso"}
    with pytest.raises(DomainRefused):
        await host.create(own(tmp_path, "web-000002"))  # the same UUID
    assert files(tmp_path / "disks") == {"web-000001", "web-000001.iso"}
    await host.observe()
    assert files(tmp_path / "disks") == {"web-000001", "web-000001.iso"}, "it is there: not swept"
    await host.destroy("web-000001")
    assert files(tmp_path) == {"cloud.img"}
    await host.create(wanted)
    host._conn.lookupByName("web-000001").destroy()  # it vanished
    await host.destroy("web-000001")
    assert files(tmp_path) == {"cloud.img"}
    assert holds(wanted.disk, b"as it is")
    await host.close()


async def test_a_successor_keeps_what_a_vm_that_is_there_writes_to(tmp_path: Path) -> None:
    """And only that: what was left of others goes at its first listing."""
    first = make(tmp_path, "test:///default")
    first._local_files = True
    await first.open()
    await first.create(own(tmp_path, "web-adopted-1", 11))
    for name in ("web-00000b.iso", "web-00000b.TRANSIENT-web-00000b"):
        (tmp_path / "disks" / "local" / name).touch()
    successor = make(tmp_path, "test:///default")
    successor._local_files = True
    await successor.observe()
    await first.close()
    assert files(tmp_path / "disks") == {"web-adopted-1", "web-adopted-1.iso"}
    await successor.destroy("web-adopted-1")
    assert files(tmp_path / "disks") == set()
    await successor.close()


async def test_a_disk_that_cannot_be_made_is_a_refusal(tmp_path: Path) -> None:
    host = make(tmp_path)
    host._local_files = True
    await host.open()
    (tmp_path / "disks").write_text("a file, where a folder has to be")
    with pytest.raises(HypervisorError):
        await host.create(own(tmp_path))
    assert await host.observe() == ()
    await host.close()


async def test_an_overlay_is_a_volume_where_libvirt_is_a_daemon(tmp_path: Path) -> None:
    """The test driver stores nothing, so the upload fails: no volume and no machine stays."""
    host = make(tmp_path)
    await host.open()
    with pytest.raises(DomainRefused):
        await host.create(own(tmp_path))
    assert host._conn.listAllStoragePools() == []
    assert everybody(host) == {"database", "web-theirs"}
    assert not (tmp_path / "disks").exists()
    await host.close()


# --- an address that was set aside


class Reserving(Answering):
    """Beside it, a network that has set an address aside for a card."""

    def networkLookupByName(self, _name: str) -> Any:  # noqa: N802
        return self

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - of the network, and of the domain
        return """<both><ip><dhcp><host mac='52:54:00:00:00:01' ip='10.0.0.77'/></dhcp></ip>
        <devices><interface><mac address='52:54:00:00:00:01'/></interface></devices></both>"""

    def lookupByName(self, name: str) -> Any:  # noqa: N802
        return Reserving(self._conn.lookupByName(name), self._answers)


async def test_a_reservation_counts_where_nobody_tells_an_address(
    host: LibvirtHypervisor,
) -> None:
    identity = await host.create(spec())
    real = host._conn
    host._conn = Reserving(real, {})
    assert await host.address("web-000001", identity) == "10.0.0.77:8080"
    host._conn = Reserving(real, {LEASE: {"vnet0": interface("10.0.0.5")}})
    assert await host.address("web-000001", identity) == "10.0.0.5:8080", "the last to be asked"
    host._network = "bridge:br0"
    host._conn = Reserving(real, {})
    assert await host.address("web-000001", identity) is None
    host._conn = real
