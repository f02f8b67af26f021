"""Disks of their own for VMs whose QEMU runs as this user: what lies in `disks/HOST` for each.

Owns that folder: `VM` is a link to the user's image, so that the overlay which libvirt makes beside
what it is told (`VM.TRANSIENT-VM`, and removes with the VM) never lies in the user's folder;
`VM.iso` is the seed. It must not write through the link, remove what has no such name, nor know
libvirt.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path

from autoscale import seed
from autoscale.domain_xml import OwnDisk, VmSpec

_NAME = re.compile(r"(?P<vm>[a-z0-9-]+-[0-9a-f]{6})(?:\.iso|\.TRANSIENT-(?P=vm))?")
"""Of what is ours: `web-3f09ac` and what goes with it."""


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
        if self._folder.is_symlink() or not self._folder.is_dir():
            return  # whatever it leads to, we did not make it
        for path in list(self._folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is None or (path.name == name["vm"] and not path.is_symlink()):
                continue  # none of ours
            if name["vm"] not in there and name["vm"] not in self._prepared:
                with contextlib.suppress(OSError):
                    path.unlink()
