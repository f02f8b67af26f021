"""A composition root for the admin API's tests: real pools and journal, scripted machines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lb.admin.api import AdminServer
from lb.admin.control import (
    HostRow,
    RefusedError,
    RolloutOrder,
    RolloutRow,
    ScaleOrder,
    ScaleRow,
    UnknownNameError,
    VmRow,
)
from lb.backend import BackendView
from lb.balance import policy_named
from lb.config import HealthConfig
from lb.config_changes import Changes
from lb.decisions import Decisions
from lb.journal import Journal
from lb.pool import Pool
from lb.series import Series

TOKEN = "t" * 43
VM = VmRow(
    name="web-1",
    service="web",
    state="ready",
    libvirt_state="running",
    host="local",
    address="127.0.0.1:4000",
    age_s=65.0,
    cpu_host_ratio=0.61,
    cpu_vcpu_ratio=0.52,
    memory_bytes=384 * 1024 * 1024,
    image="webapp",
    role="replica",
    path="cold",
)
HOST = HostRow(
    name="local",
    uri="qemu:///embed",
    reachable=True,
    domain_type="qemu",
    cores=2,
    libvirt_version="9.0.0",
    replicas=1,
)


ROLLOUT = RolloutRow(
    service="web",
    phase="running",
    image_from="webapp",
    image_to="next",
    new=1,
    old=3,
    protected=(),
    max_surge=1,
    pause_at=None,
    judged=True,
    started_at=1000.0,
    sentence="1 of 4 replicas are of next",
    booting=2,
)


class FakeControl:
    """Implements `Control`. What it says of VMs, hosts and readiness is set by the test."""

    def __init__(self, journal: Journal, services: tuple[str, ...] = ("web",)) -> None:
        self._journal = journal
        self.pools = {
            name: Pool(name, policy_named("round_robin"), HealthConfig()) for name in services
        }
        self.vm_rows = [VM]
        self.host_rows = [HOST]
        self.readiness = (True, "")
        self.failure: Exception | None = None
        """Raised by `vms` and `apply_config` where set."""
        self.applied: list[tuple[str | None, Path | None, bool]] = []
        self.decisions = Decisions()
        self.orders: list[tuple[str, ScaleOrder]] = []
        self.rollout_rows: list[RolloutRow] = []
        self.rollout_orders: list[tuple[str, RolloutOrder]] = []
        self.series = Series(Path("/nowhere/series.db"), list)
        """One that knows nothing, unless the test puts another here."""
        self.changes = Changes(("service api is new",), ("admin changed: needs a restart",))

    @property
    def journal(self) -> Journal:
        return self._journal

    def pool(self) -> dict[str, list[BackendView]]:
        return {name: pool.snapshot({"web-1": 0.6}) for name, pool in self.pools.items()}

    def add_backend(self, service: str, address: str) -> str:
        pool = self._pool(service)
        if address in pool:
            raise RefusedError(f"{address} is in service {service} already")
        return pool.add_static(address).name

    def drain(self, service: str, name: str) -> None:
        self._pool(service).drain(name)

    def ready(self, service: str, name: str) -> None:
        self._pool(service).ready(name)

    def remove(self, service: str, name: str) -> None:
        self._pool(service).remove(name)

    async def vms(self) -> list[VmRow]:
        if self.failure is not None:
            raise self.failure
        return self.vm_rows

    async def spawn_vm(self, service: str) -> ScaleRow:
        return await self.set_scale(service, ScaleOrder("fixed", self.scale(service).desired + 1))

    async def retire_vm(self, name: str) -> None:
        if name not in [row.name for row in self.vm_rows]:
            raise UnknownNameError(f"no service has a VM {name}")
        if len(self.vm_rows) == 1:
            raise RefusedError("service web has 1 of at least 1 replicas")
        self.vm_rows = [row for row in self.vm_rows if row.name != name]

    async def protect_vm(self, name: str, *, protected: bool) -> None:
        if name not in [row.name for row in self.vm_rows]:
            raise UnknownNameError(f"no service has a VM {name}")
        self.vm_rows = [
            replace(row, protected=protected) if row.name == name else row for row in self.vm_rows
        ]

    def rollouts(self) -> list[RolloutRow]:
        return self.rollout_rows

    def rollout(self, service: str) -> RolloutRow:
        self._pool(service)
        for row in self.rollout_rows:
            if row.service == service:
                return row
        raise UnknownNameError(f"service {service} has no rollout")

    async def order_rollout(self, service: str, order: RolloutOrder) -> RolloutRow:
        self._pool(service)
        if order.image == "missing":
            raise RefusedError("there is no image 'missing'")
        self.rollout_orders.append((service, order))
        return replace(ROLLOUT, service=service)

    async def hosts(self) -> list[HostRow]:
        return self.host_rows

    def scale(self, service: str) -> ScaleRow:
        self._pool(service)
        return ScaleRow(
            service, 2, 1, 1, 0, 0, 1, 4, "cpu_overload", "75 % is above 60 %", 1.5, "auto"
        )

    async def set_scale(self, service: str, order: ScaleOrder) -> ScaleRow:
        self._pool(service)
        if order.to is not None and order.to > 4:
            raise RefusedError(f"service {service} has 1 to 4 replicas, {order.to} is too many")
        self.orders.append((service, order))
        ordered = order.mode != "auto"
        until = None if order.for_s is None else 1000.0 + order.for_s
        return replace(
            self.scale(service), mode=order.mode, to=order.to, until=until, ordered=ordered
        )

    async def apply_config(
        self, text: str | None, folder: Path | None, *, dry_run: bool
    ) -> Changes:
        if self.failure is not None:
            raise self.failure
        self.applied.append((text, folder, dry_run))
        return self.changes

    def metrics(self) -> tuple[bytes, str]:
        return b"lb_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    def is_ready(self) -> tuple[bool, str]:
        return self.readiness

    def _pool(self, service: str) -> Pool:
        if service not in self.pools:
            raise UnknownNameError(f"no service {service}; there are: {', '.join(self.pools)}")
        return self.pools[service]


@contextmanager
def serving(
    home: Path, services: tuple[str, ...] = ("web",), port: int = 0
) -> Iterator[tuple[FakeControl, str]]:
    """An admin API on a thread of its own, for blocking clients; yields it and its URL."""
    journal = Journal(home / "journal.db")
    journal.start()
    control = FakeControl(journal, services)
    started = threading.Event()
    url = ""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal url
        server = AdminServer(control, f"127.0.0.1:{port}", TOKEN, home=home, heartbeat_s=0.05)
        await server.start()
        url = server.url
        started.set()
        await stop.wait()
        await server.stop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="admin-api")
    thread.start()
    try:
        assert started.wait(10)
        yield control, url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        journal.close()
        assert not thread.is_alive()
