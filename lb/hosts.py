"""The hypervisors of the configuration: connected when first needed, beside serving; shared by all.

Owns the connections and what went wrong with opening them. What runs on a host is the fleets' to
know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from autoscale import reaper
from autoscale.belongings import left_behind
from autoscale.controller import Controller
from autoscale.embedded import EmbeddedRoot
from autoscale.host import Contact, HostInfo, Hypervisor, HypervisorError
from autoscale.hypervisor import LibvirtHypervisor
from lb import rows
from lb.admin.control import HostRow
from lb.config import Config, HypervisorConfig
from lb.tasks import cancel, spawn

log = logging.getLogger(__name__)

USED: Final = "hosts-used"
"""A file in the home folder: there were VMs once, so some may be there without being asked for."""


class Hosts:
    """`given` replaces the configured ones, for tests. `changed` is called when a VM starts or
    stops."""

    def __init__(
        self,
        home: Path,
        instance: str,
        given: Mapping[str, Hypervisor] | None,
        changed: Callable[[], None],
    ) -> None:
        self._home = home
        self._instance = instance
        self._given = given
        self._changed = changed
        self._configs: tuple[HypervisorConfig, ...] = ()
        self._errors: dict[str, str] = {}
        self.by_name: dict[str, Hypervisor] = {}
        """Empty until `connect`; the same object from then on."""
        self.opening: asyncio.Task[None] | None = None
        """Ends once each was opened, or could not be. None before `connect`."""

    def needed(self, config: Config) -> bool:
        """Where there are VMs, or could still be some of an earlier configuration."""
        return (
            any(part.vm is not None for part in config.service.values())
            or (self._home / USED).exists()
        )

    def connect(self, configs: tuple[HypervisorConfig, ...]) -> asyncio.Task[None]:
        """Begin to open them, once; another configuration of theirs needs a restart."""
        if self.opening is None:
            self._configs = configs
            with contextlib.suppress(OSError):  # a folder that cannot be written costs no service
                (self._home / USED).touch()
                for line in left_behind(self._home, [c.name for c in configs]):
                    log.warning("%s", line)
            self.by_name.update(self._given or {c.name: self._make(c) for c in configs})
            for host in self.by_name.values():
                host.on_change(lambda _vm: self._changed())
            self.opening = spawn(self._open_all(), name="opening of the hosts")
        return self.opening

    def _make(self, config: HypervisorConfig) -> Hypervisor:
        return LibvirtHypervisor(
            config.name,
            config.uri,
            instance=self._instance,
            home=self._home,
            domain_type=config.domain_type,
            network=config.network,
            call_timeout=config.call_timeout,
        )

    async def _open_all(self) -> None:
        await asyncio.gather(*(self._open(host) for host in self.by_name.values()))

    async def _open(self, host: Hypervisor) -> None:
        try:
            await host.open()
        except HypervisorError as error:
            # the controllers go on trying (each listing reconnects), serving does not wait for it
            self._errors[host.name] = str(error)
            log.warning("%s", error)

    async def close(self) -> None:
        """Let go of the connections. Domains live on."""
        await cancel(self.opening)
        for host in self.by_name.values():
            with contextlib.suppress(HypervisorError):
                await host.close()

    @property
    def infos(self) -> dict[str, HostInfo]:
        """What the open ones are."""
        return {name: host.info for name, host in self.by_name.items() if host.info is not None}

    @property
    def contacts(self) -> dict[str, Contact]:
        """How the calls to each have gone."""
        return {name: host.contact for name, host in self.by_name.items()}

    def reachable(self, controllers: Mapping[str, Controller]) -> dict[str, bool]:
        """Whether each answers, by name."""
        return {row.name: row.reachable for row in self.rows(controllers)}

    def rows(self, controllers: Mapping[str, Controller]) -> list[HostRow]:
        now = time.time()
        statuses = [s for c in controllers.values() for s in c.fleet.statuses()]
        errors = {h: e for c in controllers.values() for h, e in c.unreachable.items()}
        infos = self.infos
        return [
            rows.host_row(
                config.name,
                config.uri,
                infos.get(config.name),
                # why it could not be opened at first tells nothing once it was
                errors.get(config.name)
                or (None if config.name in infos else self._errors.get(config.name)),
                [status for status in statuses if status.host == config.name],
                self.by_name[config.name].contact,
                {
                    service: pause
                    for service, controller in controllers.items()
                    for pause in controller.fleet.pauses()
                    if pause.host == config.name
                },
                now,
            )
            for config in self._configs
            if config.name in self.by_name
        ]


def reap_guests(configs: tuple[HypervisorConfig, ...], home: Path) -> None:
    """So that libvirt tells of a guest's death in the instant it dies."""
    for config in configs:
        root = EmbeddedRoot.of(config.uri, home)
        if root is not None:
            reaper.guests.watch(root.folder / "run" / "qemu")
            # those that only say what QEMU can do
            reaper.guests.watch(root.folder / "lib" / "qemu")
