"""What a VM has beside its domain: a console file, an agent's socket, a disk of its own, a port.

Owns that all of it is made before a VM starts, and goes with it. It must not know libvirt.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoscale.agent import AgentSockets
from autoscale.console import Consoles
from autoscale.domain_xml import OwnDisk, VmSpec
from autoscale.embedded import EmbeddedRoot
from autoscale.overlays import Overlays
from autoscale.volumes import OrNone, Volumes


@dataclass(frozen=True, slots=True)
class Prepared:
    """For one VM. Empty where the host keeps it, or there is none."""

    console_log: str = ""
    agent_socket: str = ""
    own_disk: OwnDisk | None = None


class Belongings:
    """One host's. Its calls block. `local` says whether QEMU runs as this user on this machine."""

    def __init__(
        self,
        home: Path,
        host: str,
        instance: str,
        clock: Callable[[], float],
        or_none: OrNone,
        embedded: EmbeddedRoot | None = None,
    ) -> None:
        self._home = home
        self._embedded = embedded
        self.consoles = Consoles(home / "console", host, embedded.logs if embedded else None)
        self.agents = AgentSockets(home / "agent")
        self._overlays = Overlays(home / "disks" / host)
        self._volumes = Volumes(instance, host, clock, or_none)
        self._swept = False

    def free_bytes(self) -> int | None:
        """On the disk of the home folder; None where it cannot be asked."""
        try:
            return shutil.disk_usage(self._home).free
        except OSError:
            return None

    def prepare(self, conn: Any, spec: VmSpec, *, local: bool) -> Prepared:
        """Raises OSError and libvirt's errors; call `remove` then."""
        if not local:
            return Prepared(own_disk=self._volumes.prepare(conn, spec) if spec.own_disk else None)
        return Prepared(
            self.consoles.prepare(spec.name),
            self.agents.prepare(spec.name),
            self._overlays.prepare(spec) if spec.own_disk else None,
        )

    def remove(self, conn: Any, vm: str) -> None:
        """Of one that is gone, or was never started."""
        self.consoles.remove(vm)
        self.agents.remove(vm)
        self._overlays.remove(vm)
        self._volumes.remove(conn, vm)

    def sweep(self, conn: Any, there: Collection[str], *, local: bool) -> None:
        """What was left of VMs that ended while nobody ran: no event will ever tell of them.
        `there` names every domain of the host."""
        if not local:
            self._volumes.sweep(conn, there)
        elif not self._swept:
            self.consoles.sweep(there)
            self._overlays.sweep(there)
            for vm in self._embedded.sweep(there) if self._embedded else ():
                self.agents.remove(vm)
            self._swept = True


def left_behind(home: Path, hosts: Collection[str]) -> tuple[str, ...]:
    """A line for each folder of a host that is configured no more, or by another name: nobody
    removes what is in it, as a VM that still runs may lie over it. Raises OSError."""
    return tuple(
        f"{folder} belongs to the hypervisor {folder.name}, which is not configured any more: give"
        f" it that name again, or remove the folder once none of its VMs runs"
        for kind in ("disks", "saved")
        for folder in sorted((home / kind).glob("*/"))
        if folder.name not in hosts and any(folder.iterdir())
    )


def free_port() -> int:
    """One of loopback that nobody listens at now; between this look and QEMU's own somebody may."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
