"""Disks of their own for VMs of a libvirt daemon: an overlay and a seed each, by its storage API.

Owns the volumes `lbctl-INSTANCE-HOST-VM.{qcow2,iso}` beside the user's image, in the pool that
already is at that folder or in one that is made for it, and is taken away with the last of them. It
must not touch a volume of another name, and imports no libvirt: the connection is handed in.
"""

from __future__ import annotations

import hashlib
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

from autoscale import seed
from autoscale.domain_xml import OwnDisk, VmSpec

OrNone = Callable[[Callable[[], Any]], Any]
"""What it returns; None where libvirt gives an error instead."""

OVERLAY, SEED = "qcow2", "iso"
ACTIVE: Final = 2
"""`VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE`."""
AGAIN_S: Final = 60.0
"""So long after a volume could not be removed it is tried again."""
_CHUNK: Final = 64 * 1024


def owner_of(instance: str, host: str) -> str:
    """What the names of all our volumes and pools on a host begin with. Hosts may share a folder by
    network: what lies there for another host's VMs must not look left over on this one."""
    return f"lbctl-{instance[:8]}-{_short(host)[:4]}-"


def volume_of(owner: str, vm: str, kind: str) -> str:
    return f"{owner}{vm}.{kind}"


def vm_of(owner: str, volume: str) -> str | None:
    """Whose a volume is; None where it is none of this owner's."""
    found = re.fullmatch(rf"{re.escape(owner)}([a-z0-9-]+)\.(?:{OVERLAY}|{SEED})", volume)
    return found[1] if found else None


def pool_of(owner: str, folder: str) -> str:
    """The name of the pool that is made for a folder."""
    return owner + _short(folder)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def pool_xml(name: str, folder: str) -> str:
    pool = ET.Element("pool", type="dir")
    ET.SubElement(pool, "name").text = name
    ET.SubElement(ET.SubElement(pool, "target"), "path").text = folder
    return ET.tostring(pool, encoding="unicode")


def volume_xml(name: str, size: int, backing: tuple[str, str] | None = None) -> str:
    """`backing` is path and format of what an overlay lies over; without one it is a plain file."""
    volume = ET.Element("volume")
    ET.SubElement(volume, "name").text = name
    ET.SubElement(volume, "capacity", unit="bytes").text = str(size)
    target = ET.SubElement(volume, "target")
    ET.SubElement(target, "format", type="qcow2" if backing else "raw")
    if backing is not None:
        below = ET.SubElement(volume, "backingStore")
        ET.SubElement(below, "path").text = backing[0]
        ET.SubElement(below, "format", type=backing[1])
    return ET.tostring(volume, encoding="unicode")


class Volumes:
    """One host's. Its calls block, and may come from several threads; each has its turn, since the
    last volume to go takes the pool with it. libvirt's errors go through, from `prepare` alone."""

    def __init__(
        self, instance: str, host: str, clock: Callable[[], float], or_none: OrNone
    ) -> None:
        self._owner = owner_of(instance, host)
        self._clock = clock
        self._or_none = or_none
        self._lock = threading.Lock()
        self._folders: dict[str, str] = {}
        """By VM, where its volumes are, as far as this process knows."""
        self._sweep_at: float | None = clock()

    def prepare(self, conn: Any, spec: VmSpec) -> OwnDisk:
        folder = str(PurePosixPath(spec.disk).parent)
        overlay, seeded = (volume_of(self._owner, spec.name, k) for k in (OVERLAY, SEED))
        told = seed.image(spec.name, spec.uuid, spec.user_data)
        base = spec.disk, spec.disk_format
        with self._lock:
            self._folders[spec.name] = folder
            try:
                pool = self._pool(conn, folder)
                disk = pool.createXML(volume_xml(overlay, spec.disk_bytes, base), 0)
                cloud = pool.createXML(volume_xml(seeded, len(told)), 0)
                self._upload(conn, cloud, told)
                paths = disk.path(), cloud.path()
            except BaseException:
                self._remove(conn, spec.name)
                raise
        return OwnDisk(paths[0], "qcow2", paths[1], (base, *spec.below))

    def _pool(self, conn: Any, folder: str) -> Any:
        name = pool_of(self._owner, folder)
        for look in (
            partial(conn.storagePoolLookupByTargetPath, folder),
            partial(conn.storagePoolLookupByName, name),
        ):
            there = self._or_none(look)
            if there is not None:
                return there
        made = conn.storagePoolCreateXML(pool_xml(name, folder), 0)
        self._sweep_at = self._clock()  # it may hold what was left when the one before ended
        return made

    def _upload(self, conn: Any, volume: Any, data: bytes) -> None:
        stream = conn.newStream(0)
        try:
            volume.upload(stream, 0, len(data), 0)
            sent = 0
            while sent < len(data):
                sent += stream.send(data[sent : sent + _CHUNK])
        except BaseException:
            self._or_none(stream.abort)
            raise
        stream.finish()

    def remove(self, conn: Any, vm: str) -> None:
        """Of one that is gone, or was never started; what cannot be removed now is swept later."""
        with self._lock:
            if vm in self._folders:
                self._remove(conn, vm)

    def _remove(self, conn: Any, vm: str) -> None:
        folder = self._folders.pop(vm)
        # made again where a restart of the daemon's took it
        pool = self._or_none(lambda: self._pool(conn, folder))
        if pool is not None:
            self._drop(pool, {vm})

    def sweep(self, conn: Any, there: Collection[str]) -> None:
        """Once, and again some time after a removal failed: remove what belongs to VMs that are
        neither `there` nor being started by this process. `there` names every domain of the host,
        ours or not, in whatever state."""
        if self._sweep_at is None or self._clock() < self._sweep_at:
            return
        with self._lock:
            self._sweep_at = None
            for pool in self._or_none(lambda: conn.listAllStoragePools(ACTIVE)) or ():
                found = {vm_of(self._owner, volume) for volume in self._volumes(pool)} - {None}
                for vm in found:
                    if vm is not None and vm in there:
                        self._folders.setdefault(vm, _folder_of(pool.XMLDesc(0)))
                gone = {vm for vm in found if vm is not None and vm not in self._folders}
                if gone or not found:
                    self._drop(pool, gone)

    def _drop(self, pool: Any, vms: Collection[str]) -> None:
        """These VMs' volumes, and the pool where it is ours and holds none of ours any more."""
        for name in self._volumes(pool):
            if vm_of(self._owner, name) in vms:
                volume = self._or_none(partial(pool.storageVolLookupByName, name))
                if volume is not None and self._or_none(partial(volume.delete, 0)) is None:
                    self._sweep_at = self._clock() + AGAIN_S
        ours = pool.name().startswith(self._owner)
        if ours and not any(vm_of(self._owner, name) for name in self._volumes(pool)):
            self._or_none(pool.destroy)

    def _volumes(self, pool: Any) -> list[str]:
        return self._or_none(pool.listVolumes) or []


def _folder_of(pool: str) -> str:
    return ET.fromstring(pool).findtext("target/path") or ""  # noqa: S314 - libvirt's own
