"""Saving, copying, resting and waking through the adapter: what libvirt is told, and what its
errors mean. The test driver rests and wakes by itself; the rest answers by script."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from autoscale import saved_guest
from autoscale.domain_xml import HostSettings, Identity, VmSpec, domain_xml, parse_identity
from autoscale.host import (
    DiskFull,
    DomainRefused,
    HostUnreachable,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    PowerState,
    SnapshotUnusable,
)
from autoscale.hypervisor import LibvirtHypervisor
from autoscale.saved_guest import SavedGuest

IDENTITY = Identity("ours", "web", "generation-1", 8080, 0.4, 1.7e9)
USAGE = {"cpu_shares": 1024, "vcpu_period": 100_000, "vcpu_quota": -1}


def spec(name: str, number: int = 2) -> VmSpec:
    uuid = f"b5a4b7a6-0000-4000-8000-{number:012}"
    return VmSpec(name, uuid, 64, 1, "/k", "/i", "/d", "quiet", IDENTITY)


def error(code: int, text: str) -> libvirt.libvirtError:
    made = libvirt.libvirtError(text)
    made.err = (code, libvirt.VIR_FROM_QEMU, text, 2, "", "", "", -1, -1)
    return made


def save_file(host_port: int = 40001) -> bytes:
    saved = replace(spec("web-saved", 1), identity=replace(IDENTITY, host_port=host_port))
    text = domain_xml(saved, HostSettings("qemu", "user", "/logs/a", "/agents/a"))
    return saved_guest.head(SavedGuest(text, b"", True, 70_000)) + b"QEVM" * 1000


class Scripted:
    """A connection of the test driver that saves, restores and asks agents as it is told.

    A restore reads what it is given, and starts a machine of the test driver under that name.
    """

    def __init__(self, conn: Any, dom: Any = None, script: Scripted | None = None) -> None:
        self._real = conn
        self._dom = dom
        self._script = script or self
        self.saves = save_file()
        self.errors: list[Exception] = []
        self.restored: list[tuple[SavedGuest, bytes]] = []
        self.reading: Callable[[], None] = lambda: None
        self.told: list[Any] = []
        self.deaf = 0
        """So often its agent is not there."""
        self.shares = 1024

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dom or self._real, name)

    def lookupByName(self, name: str) -> Any:  # noqa: N802 - libvirt's name
        return Scripted(self._real, self._real.lookupByName(name), self)

    def saveFlags(self, path: str, _xml: None, flags: int) -> None:  # noqa: N802
        assert flags == libvirt.VIR_DOMAIN_SAVE_RUNNING
        self._script.reading()
        self._dom.destroy()
        Path(path).write_bytes(self._script.saves)

    def restoreFlags(self, path: str, _xml: None, flags: int) -> None:  # noqa: N802
        assert flags == 0
        self.reading()
        if self.errors:
            raise self.errors.pop(0)
        content = Path(path).read_bytes()
        guest = saved_guest.parse(content)
        self.restored.append((guest, content[guest.stream_at :]))
        identity = parse_identity(guest.xml)
        name = guest.xml.partition("<name>")[2].partition("<")[0]
        uuid = guest.xml.partition("<uuid>")[2].partition("<")[0]
        made = replace(spec(name), uuid=uuid, identity=identity)
        self._real.createXML(domain_xml(made, HostSettings("test", "network:default", "")), 0)

    def setTime(self, when: dict[str, int], flags: int) -> None:  # noqa: N802
        if self._script.deaf:
            self._script.deaf -= 1
            raise error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "QEMU guest agent is not connected")
        self._script.told.append((self._dom.name(), when["seconds"] + when["nseconds"] / 1e9))

    def schedulerParametersFlags(self, _flags: int) -> dict[str, int]:  # noqa: N802
        return {**USAGE, "cpu_shares": self._script.shares}

    def setSchedulerParametersFlags(self, what: dict[str, int], _flags: int) -> None:  # noqa: N802
        if self._script.errors:
            raise self._script.errors.pop(0)
        self._script.told.append(what)


def make(folder: Path, timeout: float = 20.0) -> LibvirtHypervisor:
    node = folder / "node.xml"
    node.write_text(
        "<node><cpu><mhz>2000</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>"
        "<sockets>1</sockets><cores>4</cores><threads>1</threads></cpu><memory>8388608</memory>"
        "</node>"
    )
    return LibvirtHypervisor(
        "local", f"test://{node}", instance="ours", home=folder, call_timeout=timeout
    )


async def prepared(folder: Path, timeout: float = 20.0) -> tuple[LibvirtHypervisor, Scripted]:
    """As if it were QEMU's driver in our process, with forwarded ports; `web-saved` runs there."""
    host = make(folder, timeout)
    info = await host.open()
    await host.create(spec("web-saved", 1))
    host._info, host._network, host._local_files = replace(info, copies=""), "user", True
    host._conn = script = Scripted(host._conn)
    return host, script


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[LibvirtHypervisor, Scripted]]:
    host, script = await prepared(tmp_path)
    yield host, script
    await host.close()


def left(folder: Path) -> set[str]:
    kept = {path.name for path in folder.rglob("*") if not path.is_dir()}
    return kept - {"node.xml"}


SAVED = {"guest", "sha256"}


# --- resting and waking


async def test_a_guest_rests_and_goes_on_and_twice_is_no_error(tmp_path: Path) -> None:
    host = make(tmp_path)
    await host.open()
    await host.create(spec("web-1"))
    for _ in range(2):
        await host.suspend("web-1")
        assert [d.power for d in await host.observe()] == [PowerState.PAUSED]
    for _ in range(2):
        await host.resume("web-1")
        assert [d.power for d in await host.observe()] == [PowerState.RUNNING]
    for call in (host.suspend, host.resume, host.set_time):
        with pytest.raises(NoSuchDomain):
            await call("web-9")
    await host.close()


async def test_a_host_without_copies_says_why_and_saves_nothing(tmp_path: Path) -> None:
    host = make(tmp_path)
    info = await host.open()
    await host.create(spec("web-1"))
    assert "test driver" in info.copies
    assert await host.saved() == frozenset()
    with pytest.raises(HypervisorError, match="test driver"):
        await host.save("web-1", "k1")
    assert len(await host.observe()) == 1
    assert left(tmp_path) == set()
    await host.close()


# --- saving


async def test_a_guest_is_saved_and_ended(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    host, _ = both
    await host.save("web-saved", "k1")
    assert await host.saved() == {"k1"}
    assert (tmp_path / "saved/local/k1/guest").read_bytes() == save_file()
    assert await host.observe() == ()


async def test_a_guest_without_an_agent_is_not_saved_and_lives_on(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    """Its copies could never be told who they are."""
    host, script = both
    now = [100.0]

    def passing() -> float:
        now[0] += 5
        return now[0]

    host._clock = passing
    script.deaf = 100
    with pytest.raises(HypervisorError, match="not connected"):
        await host.save("web-saved", "k1")
    assert len(await host.observe()) == 1
    assert left(tmp_path) == set()
    script.deaf = 1  # it starts only now
    await host.save("web-saved", "k1")
    assert await host.saved() == {"k1"}


async def test_a_format_nobody_knows_is_told_and_nothing_kept(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    host, script = both
    script.saves = b"QEVM" * 100
    with pytest.raises(HypervisorError, match="does not begin as a libvirt save file"):
        await host.save("web-saved", "k1")
    assert await host.saved() == frozenset()
    assert left(tmp_path) == set()


def waited(go: threading.Event) -> None:
    go.wait(20)


async def settled(host: LibvirtHypervisor) -> None:
    async with asyncio.timeout(20):
        while any(not f.done() for f in host._calls.hanging):  # noqa: ASYNC110 - threads set no event
            await asyncio.sleep(0.01)


async def test_a_save_given_up_is_not_there_later(tmp_path: Path) -> None:
    host, script = await prepared(tmp_path, timeout=0.3)
    go = threading.Event()
    script.reading = lambda: waited(go)
    with pytest.raises(HostUnreachable, match="no answer"):
        await host.save("web-saved", "k1")
    go.set()
    await settled(host)
    assert await host.saved() == frozenset()
    assert left(tmp_path) == set()
    await host.close()


# --- copies


async def test_a_copy_is_started_under_its_own_name(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    identity = await host.restore(spec("web-b"), "k1")
    ((guest, stream),) = script.restored
    assert stream == b"QEVM" * 1000
    assert parse_identity(guest.xml) == identity
    assert f"hostfwd=tcp:127.0.0.1:{identity.host_port}-" in guest.xml
    assert identity.host_port not in (0, 40001)
    for words in (
        "<name>web-b</name>",
        f"<uuid>{spec('').uuid}</uuid>",
        f"<genid>{spec('').uuid}</genid>",
        str(tmp_path / "console" / "local@web-b.log"),
        str(tmp_path / "agent" / "web-b"),
    ):
        assert words in guest.xml
    (domain,) = await host.observe()
    assert (domain.name, domain.identity) == ("web-b", identity)
    assert left(tmp_path) == SAVED


@pytest.mark.parametrize("fifo", [True, False])
async def test_a_later_libvirt_gets_a_file_and_an_earlier_one_a_fifo(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path, fifo: bool
) -> None:
    host, script = both
    host._fifo = fifo
    seen: list[bool] = []

    def look() -> None:
        seen.append((tmp_path / "saved/local/web-b.copy").is_fifo())

    await host.save("web-saved", "k1")
    script.reading = look
    await host.restore(spec("web-b"), "k1")
    assert seen == [fifo]
    assert left(tmp_path) == SAVED


async def test_a_port_that_somebody_took_is_no_fault_of_the_file(
    both: tuple[LibvirtHypervisor, Scripted],
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    script.errors = [error(1, "qemu: could not set up host forwarding rule 'tcp:…'")]
    await host.restore(spec("web-b"), "k1")
    assert len(script.restored) == 1
    assert await host.saved() == {"k1"}


async def test_a_file_that_libvirt_refuses_is_gone(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    script.errors = [error(1, "operation failed: guest CPU doesn't match")]
    with pytest.raises(SnapshotUnusable, match=r"local refuses web-b: .*CPU"):
        await host.restore(spec("web-b"), "k1")
    assert await host.saved() == frozenset()
    assert left(tmp_path) == set()
    with pytest.raises(SnapshotUnusable):
        await host.restore(spec("web-b"), "k1")


async def test_a_host_short_of_memory_says_nothing_of_the_file(
    both: tuple[LibvirtHypervisor, Scripted],
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    script.errors = [error(1, "cannot set up guest memory 'pc.ram': Cannot allocate memory")]
    with pytest.raises(DomainRefused) as caught:
        await host.restore(spec("web-b"), "k1")
    assert not isinstance(caught.value, SnapshotUnusable)
    assert await host.saved() == {"k1"}


async def test_a_disk_without_room_for_the_copy_says_nothing_of_the_file(
    both: tuple[LibvirtHypervisor, Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = both
    await host.save("web-saved", "k1")

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(host._store, "copy", full)
    with pytest.raises(DiskFull, match="make room on that host's disk"):
        await host.restore(spec("web-b"), "k1")
    assert await host.saved() == {"k1"}


@pytest.mark.parametrize(
    ("words", "free", "kind"),
    [
        ("internal error: failed to write master key file for domain 7", 1 << 30, DiskFull),
        ("internal error: process ended", 0, DiskFull),
        ("internal error: process ended", 1 << 30, SnapshotUnusable),
    ],
)
async def test_a_full_disk_that_libvirt_does_not_name_says_nothing_of_the_file(
    both: tuple[LibvirtHypervisor, Scripted],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    free: int,
    kind: type[DomainRefused],
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    monkeypatch.setattr(host._belongings, "free_bytes", lambda: free)
    script.errors = [error(1, words)]
    with pytest.raises(kind):
        await host.restore(spec("web-b"), "k1")
    assert await host.saved() == ({"k1"} if kind is DiskFull else frozenset())


async def test_a_lost_connection_says_nothing_of_the_file(
    both: tuple[LibvirtHypervisor, Scripted],
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    script.errors = [error(libvirt.VIR_ERR_RPC, "connection reset")]
    with pytest.raises(HostUnreachable):
        await host.restore(spec("web-b"), "k1")
    assert await host.saved() == {"k1"}


async def test_a_damaged_file_is_never_given_to_libvirt(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    host, script = both
    await host.save("web-saved", "k1")
    with (tmp_path / "saved/local/k1/guest").open("ab") as file:
        file.write(b"!")
    with pytest.raises(SnapshotUnusable, match="checksum"):
        await host.restore(spec("web-b"), "k1")
    assert script.restored == []
    assert left(tmp_path) == set()


async def test_a_copy_given_up_leaves_no_machine_behind(tmp_path: Path) -> None:
    host, script = await prepared(tmp_path, timeout=0.3)
    await host.save("web-saved", "k1")
    go = threading.Event()
    script.reading = lambda: waited(go)
    with pytest.raises(HostUnreachable, match="no answer"):
        await host.restore(spec("web-b"), "k1")
    go.set()
    await settled(host)
    assert await host.observe() == ()
    assert await host.saved() == {"k1"}, "it is still good"
    assert left(tmp_path) == SAVED
    await host.close()


async def test_what_a_killed_process_left_is_swept_with_the_first_listing(
    both: tuple[LibvirtHypervisor, Scripted], tmp_path: Path
) -> None:
    host, _ = both
    (tmp_path / "saved/local/.k1").mkdir(parents=True)
    (tmp_path / "saved/local/.k1/guest").write_bytes(b"half")
    (tmp_path / "saved/local/web-x.copy").write_bytes(b"half")
    await host.observe()
    assert left(tmp_path) == set()


# --- who it is


async def test_a_copy_is_told_its_name_and_then_the_time(
    both: tuple[LibvirtHypervisor, Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, script = both

    unheard = [True]

    def ask(dom: Any, command: str, seconds: int, flags: int) -> str:
        if unheard:
            unheard.pop()  # the copy was started a moment ago
            raise error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "QEMU guest agent is not connected")
        script.told.append((dom.name(), json.loads(command)))
        return '{"return": {}}'

    monkeypatch.setattr("libvirt_qemu.qemuAgentCommand", ask)
    before = time.time()
    await host.introduce("web-saved", "web-b", b"\xff" * 32)
    (name, asked), (again, told) = script.told
    assert name == again == "web-saved"
    assert asked["execute"] == "lbctl-wake"
    assert asked["arguments"]["name"] == "web-b"
    assert before - 1e-3 <= told <= time.time()
    await host.set_time("web-saved")
    assert len(script.told) == 3


async def test_an_agent_that_does_not_answer_is_an_error_and_no_clock_is_set(
    both: tuple[LibvirtHypervisor, Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, script = both

    def ask(*_: Any) -> str:
        now[0] += 1.1
        raise error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "QEMU guest agent is not connected")

    now = [100.0]
    host._clock = lambda: now[0]
    monkeypatch.setattr("libvirt_qemu.qemuAgentCommand", ask)
    with pytest.raises(HypervisorError, match="not connected"):
        await host.introduce("web-saved", "web-b", bytes(32))
    assert script.told == []


# --- its share of the host


@pytest.mark.parametrize(
    ("in_force", "weight", "told"),
    [
        pytest.param(1024, 64, 64, id="cgroups 1"),
        pytest.param(64, 1024, 1024, id="and back"),
        pytest.param(100, 64, 6, id="cgroups 2, where the usual one is 100"),
        pytest.param(6, 1024, 100, id="and back there"),
    ],
)
async def test_a_share_is_told_as_the_hosts_kernel_counts(
    both: tuple[LibvirtHypervisor, Scripted], in_force: int, weight: int, told: int
) -> None:
    host, script = both
    script.shares = in_force
    await host.set_cpu_weight("web-saved", weight)
    assert script.told == [{"cpu_shares": told}]


async def test_a_host_that_cannot_weigh_says_so(
    both: tuple[LibvirtHypervisor, Scripted],
) -> None:
    host, script = both
    script.errors = [error(55, "CPU tuning is not available in session mode")]
    with pytest.raises(LimitUnsupported):
        await host.set_cpu_weight("web-saved", 64)
    with pytest.raises(NoSuchDomain):
        await host.set_cpu_weight("web-9", 64)
