"""Overlays as volumes of a daemon's: whose each is, and that none outlives its VM.

A small storage of our own stands for the daemon's; real libvirt checks the XML.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale import volumes
from autoscale.volumes import Volumes, owner_of, pool_of, pool_xml, vm_of, volume_of, volume_xml
from tests.test_iso9660 import entries
from tests.test_overlays import SPEC

INSTANCE = "3f9a11c2-0000-4000-8000-000000000001"
OURS = owner_of(INSTANCE, "box")
CLOUD = replace(SPEC, disk="/var/images/cloud.qcow2")


class Refused(Exception):
    """As libvirtError is."""


@dataclass
class Volume:
    pool: Pool
    name: str
    xml: str
    data: bytes = b""
    stuck: bool = False

    def path(self) -> str:
        return f"{self.pool.folder}/{self.name}"

    def upload(self, stream: Stream, _offset: int, length: int, _flags: int) -> None:
        stream.into, stream.length = self, length

    def delete(self, _flags: int) -> int:
        if self.stuck:
            raise Refused("busy")
        del self.pool.volumes[self.name]
        return 0


@dataclass
class Stream:
    breaks: bool
    into: Volume | None = None
    length: int = 0
    aborted: bool = False

    def send(self, data: bytes) -> int:
        if self.breaks:
            raise Refused("no space left on device")
        assert self.into is not None
        taken = data[:1000]  # as much as it likes
        self.into.data += taken
        return len(taken)

    def finish(self) -> int:
        assert self.into is not None
        assert len(self.into.data) == self.length
        return 0

    def abort(self) -> int:
        self.aborted = True
        return 0


@dataclass
class Pool:
    conn: Conn
    label: str
    folder: str
    volumes: dict[str, Volume] = field(default_factory=dict)

    def name(self) -> str:
        return self.label

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802 - libvirt's names
        return f"<pool><target><path>{self.folder}</path></target></pool>"

    def listVolumes(self) -> list[str]:  # noqa: N802
        return list(self.volumes)

    def createXML(self, xml: str, _flags: int) -> Volume:  # noqa: N802
        name = ET.fromstring(xml).findtext("name") or ""  # noqa: S314 - our own
        if name in self.volumes:
            raise Refused("exists")
        self.volumes[name] = Volume(self, name, xml)
        return self.volumes[name]

    def storageVolLookupByName(self, name: str) -> Volume:  # noqa: N802
        if name not in self.volumes:
            raise Refused("no such volume")
        return self.volumes[name]

    def destroy(self) -> int:
        self.conn.pools.remove(self)
        return 0


@dataclass
class Conn:
    pools: list[Pool] = field(default_factory=list)
    breaks: bool = False
    disks: dict[str, Pool] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)

    def listAllStoragePools(self, _flags: int) -> list[Pool]:  # noqa: N802
        return list(self.pools)

    def storagePoolLookupByTargetPath(self, folder: str) -> Pool:  # noqa: N802
        return self._one(lambda pool: pool.folder == folder)

    def storagePoolLookupByName(self, name: str) -> Pool:  # noqa: N802
        return self._one(lambda pool: pool.label == name)

    def _one(self, fits: Callable[[Pool], bool]) -> Pool:
        for pool in self.pools:
            if fits(pool):
                return pool
        raise Refused("no such pool")

    def storagePoolCreateXML(self, xml: str, _flags: int) -> Pool:  # noqa: N802
        told = ET.fromstring(xml)  # noqa: S314 - our own
        folder = told.findtext("target/path") or ""
        pool = self.disks.setdefault(folder, Pool(self, told.findtext("name") or "", folder))
        self.pools.append(pool)
        return pool

    def restart(self) -> None:
        """Pools that were never defined are forgotten; what is on disk stays."""
        self.pools.clear()

    def newStream(self, _flags: int) -> Stream:  # noqa: N802
        self.streams.append(Stream(self.breaks))
        return self.streams[-1]


def or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Refused:
        return None


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def storage(clock: Time | None = None) -> Volumes:
    return Volumes(INSTANCE, "box", clock or Time(), or_none)


# --- whose a volume is

vm_names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,17}[a-z0-9])?", fullmatch=True)


@given(vm_names, st.sampled_from(["qcow2", "iso"]))
def test_a_volume_of_ours_tells_whose_it_is(vm: str, kind: str) -> None:
    name = volume_of(OURS, vm, kind)
    assert vm_of(OURS, name) == vm
    assert vm_of(owner_of("b" + INSTANCE, "box"), name) is None, "another installation's"
    assert vm_of(owner_of(INSTANCE, "far"), name) is None, "another host's, by a shared folder"


@pytest.mark.parametrize(
    "name",
    [
        "cloud.qcow2",
        "lbctl-3f9a11c2-26f8.qcow2",
        "lbctl-3f9a11c2-26f8-.qcow2",
        "lbctl-3f9a11c2-web-1.qcow2",
        "lbctl-3f9a11c2-ffff-web-1.qcow2",
        "lbctl-3f9a11c2-26f8-web-1.raw",
        "lbctl-3f9a11c2-26f8-web-1.qcow2.bak",
        "my-lbctl-3f9a11c2-26f8-web-1.qcow2",
        "lbctl-3f9a11c2-26f8-../x.qcow2",
        "lbctl-3f9a11c2-26f8-web-1.qcow2\n",
    ],
)
def test_no_other_volume_is_ours(name: str) -> None:
    assert vm_of(OURS, name) is None


@given(st.text(max_size=40))
def test_a_volume_is_ours_by_our_own_name_alone(name: str) -> None:
    vm = vm_of(OURS, name)
    assert vm is None or name in {volume_of(OURS, vm, kind) for kind in ("qcow2", "iso")}


# --- a VM's life


def test_a_vm_gets_an_overlay_and_a_seed_in_a_pool_that_goes_with_the_last() -> None:
    conn, kept = Conn(), storage()
    own = kept.prepare(conn, CLOUD)
    (pool,) = conn.pools
    assert (pool.label, pool.folder) == (pool_of(OURS, "/var/images"), "/var/images")
    assert (own.path, own.format) == (f"/var/images/{OURS}{CLOUD.name}.qcow2", "qcow2")
    assert own.below == (("/var/images/cloud.qcow2", "qcow2"), ("/base", "raw"))
    assert not own.transient
    seeded = pool.volumes[own.seed.rpartition("/")[2]]
    assert entries(seeded.data)["USER-DATA.;1"] == b"#cloud-config\n"
    kept.prepare(conn, replace(CLOUD, name="web-000002"))
    assert len(pool.volumes) == 4
    kept.remove(conn, CLOUD.name)
    assert len(pool.volumes) == 2
    kept.remove(conn, "web-000002")
    kept.remove(conn, "web-000002")
    assert conn.pools == []


def test_somebody_elses_pool_is_used_and_stays() -> None:
    conn, kept = Conn(), storage()
    theirs = Pool(conn, "default", "/var/images")
    theirs.volumes["cloud.qcow2"] = Volume(theirs, "cloud.qcow2", "")
    conn.pools.append(theirs)
    kept.prepare(conn, CLOUD)
    assert len(theirs.volumes) == 3
    kept.remove(conn, CLOUD.name)
    assert conn.pools == [theirs]
    assert set(theirs.volumes) == {"cloud.qcow2"}


def test_what_cannot_be_made_whole_leaves_nothing() -> None:
    conn, kept = Conn(breaks=True), storage()
    with pytest.raises(Refused, match="no space"):
        kept.prepare(conn, CLOUD)
    assert conn.pools == []
    assert conn.streams[0].aborted


def test_a_successor_sweeps_what_has_no_domain_and_keeps_what_has() -> None:
    conn, before = Conn(), storage()
    for name in ("web-there", "web-gone"):
        before.prepare(conn, replace(CLOUD, name=name))
    other = Volumes("another-one", "box", Time(), or_none)
    other.prepare(conn, replace(CLOUD, name="web-gone"))
    (pool,) = conn.pools
    kept = storage()
    kept.prepare(conn, replace(CLOUD, name="web-new"))
    kept.sweep(conn, {"web-there", "database"})
    vms = {vm_of(OURS, name) for name in pool.volumes} - {None}
    assert vms == {"web-there", "web-new"}
    assert len(pool.volumes) == 6, "another installation's stay"
    kept.remove(conn, "web-there")
    kept.remove(conn, "web-new")
    assert len(pool.volumes) == 2


def test_a_pool_without_volumes_of_ours_is_taken_away_by_a_successor() -> None:
    conn = Conn()
    conn.pools = [
        Pool(conn, "default", "/var/lib"),
        Pool(conn, pool_of(OURS, "/var/images"), "/var/images"),
    ]
    storage().sweep(conn, set())
    assert [pool.label for pool in conn.pools] == ["default"]


def test_what_a_restart_of_the_daemons_left_is_found_again() -> None:
    """Pools of ours end with it; their files stay."""
    conn, kept = Conn(), storage()
    kept.sweep(conn, set())
    for name in ("web-gone", "web-unheard"):
        kept.prepare(conn, replace(CLOUD, name=name))
    (pool,) = conn.pools
    conn.restart()
    kept.remove(conn, "web-gone")
    assert {vm_of(OURS, name) for name in pool.volumes} == {"web-unheard"}
    conn.restart()
    successor = storage()
    successor.sweep(conn, set())
    assert len(pool.volumes) == 2, "nobody knows of the folder"
    successor.prepare(conn, CLOUD)
    successor.sweep(conn, set())
    assert {vm_of(OURS, name) for name in pool.volumes} == {CLOUD.name}


def test_a_volume_that_is_stuck_is_tried_again_a_minute_later() -> None:
    conn, clock = Conn(), Time()
    kept = storage(clock)
    kept.sweep(conn, set())
    own = kept.prepare(conn, CLOUD)
    (pool,) = conn.pools
    volume = pool.volumes[own.path.rpartition("/")[2]]
    volume.stuck = True
    kept.remove(conn, CLOUD.name)
    assert set(pool.volumes) == {volume.name}
    volume.stuck = False
    kept.sweep(conn, set())
    assert set(pool.volumes) == {volume.name}, "not at every listing"
    clock.now += volumes.AGAIN_S
    kept.sweep(conn, set())
    assert conn.pools == []


# --- libvirt's own view


def test_libvirt_reads_the_xml(tmp_path: Any) -> None:
    """The test driver keeps storage in words alone, and reads them as the real one."""
    node = tmp_path / "node.xml"
    node.write_text("<node><memory>1</memory></node>")
    assert volumes.ACTIVE == libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    conn = libvirt.open(f"test://{node}")
    folder = "/a&b"
    pool = conn.storagePoolCreateXML(pool_xml(pool_of(OURS, folder), folder), 0)
    assert f"<path>{folder.replace('&', '&amp;')}</path>" in pool.XMLDesc(0)
    made = pool.createXML(volume_xml("x.qcow2", 1 << 20, ("/base", "raw")), 0)
    assert made.path() == f"{folder}/x.qcow2"
    assert "<path>/base</path>" in made.XMLDesc(0)
    assert made.info()[1] == 1 << 20
    conn.close()
