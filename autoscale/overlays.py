"""Disks of their own for VMs whose QEMU runs as this user: what lies in `disks/HOST` for each.

Owns that folder: `VM` is a link to the user's image, so that the overlay which libvirt makes beside
what it is told (`VM.TRANSIENT-VM`, and removes with the VM) never lies in the user's folder;
`VM.iso` is the seed. It must not write through the link, nor know libvirt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from autoscale import seed
from autoscale.domain_xml import OwnDisk, VmSpec


class Overlays:
    """Its calls block, and may come from several threads at once, each for its own VM."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prepared: set[str] = set()

    def prepare(self, spec: VmSpec) -> OwnDisk:
        """Raises OSError."""
        self._prepared.add(spec.name)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._unlink(spec.name)  # of one that a crash left, under a name that was drawn again
        link, seed_file = self._folder / spec.name, self._folder / f"{spec.name}.iso"
        link.symlink_to(spec.disk)
        seed_file.write_bytes(seed.image(spec.name, spec.uuid, spec.user_data))
        return OwnDisk(str(link), spec.disk_format, str(seed_file), spec.below, transient=True)

    def remove(self, vm: str) -> None:
        """Of one that is gone, with the overlay where libvirt did not live to remove it."""
        self._prepared.discard(vm)
        self._unlink(vm)

    def _unlink(self, vm: str) -> None:
        for name in (vm, f"{vm}.iso", f"{vm}.TRANSIENT-{vm}"):
            with contextlib.suppress(OSError):  # a file left over is no reason to fail
                (self._folder / name).unlink(missing_ok=True)

    def sweep(self, there: Collection[str]) -> None:
        """Remove what belongs to VMs that are neither there nor being started by this process."""
        if not self._folder.is_dir():
            return
        for vm in {path.name.partition(".")[0] for path in self._folder.iterdir()}:
            if vm not in there and vm not in self._prepared:
                self._unlink(vm)
