"""VMs of ours whose service is not in the configuration: nobody scales them or sends them requests.

They are left where a service was renamed or taken out while no process ran. Sees them, tells of
each once, shows them; ends none. They cost their host's memory, so nobody should overlook them.
What was saved of such a service's guests goes: nothing was ever served from it, and it is made
anew in a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

from autoscale.host import Domain, Hypervisor, HypervisorError
from autoscale.model import Happening, Reason
from lb import rows
from lb.admin.control import VmRow

EVERY_S: Final = 30.0


class Strays:
    """`served` names the services that have VMs of their own; `note` writes the journal."""

    def __init__(
        self,
        hosts: Mapping[str, Hypervisor],
        served: Callable[[], Collection[str]],
        note: Callable[[Happening], None],
    ) -> None:
        self._hosts = hosts
        self._served = served
        self._note = note
        self._listed: dict[str, tuple[Domain, ...]] = {}
        self._told: set[str] = set()

    async def run(self, opening: asyncio.Task[None]) -> None:
        """Look once the hosts were opened, and then now and again."""
        await asyncio.wait([opening])
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """A host that does not answer shows what it showed last."""
        for host in tuple(self._hosts.values()):
            try:
                self._listed[host.name] = await host.observe()
                await host.keep_saved(self._served())
            except HypervisorError:
                continue  # each service's controller says so
        for host_name, domain in self._strays():
            if domain.name in self._told:
                continue
            self._told.add(domain.name)
            service = domain.identity.service
            self._note(
                Happening(
                    "vm.stray",
                    service,
                    domain.name,
                    Reason.UNKNOWN_SERVICE,
                    f"{domain.name} on {host_name} belongs to service {service}, which has no VMs"
                    f" in the configuration: give it a [service.{service}.vm] and it serves again,"
                    " then take that out with `lbctl config apply` to retire it",
                    {"host": host_name},
                )
            )

    @property
    def services(self) -> frozenset[str]:
        """Whose they are."""
        return frozenset(domain.identity.service for _, domain in self._strays())

    def rows(self) -> list[VmRow]:
        return [rows.stray_row(host, domain) for host, domain in self._strays()]

    def _strays(self) -> list[tuple[str, Domain]]:
        served = self._served()
        return [
            (host, domain)
            for host, domains in self._listed.items()
            for domain in domains
            if domain.identity.service not in served
        ]
