"""The composition root: builds the parts, ties them, starts and stops them in order.

The only place that knows both the proxy and the autoscaler. It decides nothing: events go from
fleet to pool, changes from pool to journal and controller, rows to the admin API.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from autoscale.controller import Controller, LoopClock
from autoscale.fleet import VmFleet
from autoscale.host import HostInfo, Hypervisor, HypervisorError, ImageUnavailable
from autoscale.hypervisor import LibvirtHypervisor
from autoscale.model import Decision, Happening
from autoscale.policy import Rules
from autoscale.vm import BootFiles, VmShape
from guest import image as guest_image
from lb import rows
from lb.admin import access
from lb.admin.api import AdminServer
from lb.admin.control import HostRow, RefusedError, ScaleRow, UnknownNameError, VmRow
from lb.backend import BackendView
from lb.config import Config, ConfigError, ScaleConfig, ServiceConfig, VmConfig, load_config
from lb.errors import LbError
from lb.guestview import GuestView
from lb.health import Prober
from lb.installation import Installation
from lb.journal import Journal
from lb.listener import ProxyServer
from lb.metrics import AutoscalerRows, Histogram, Metrics
from lb.pool import Change, Pool
from lb.tasks import spawn

log = logging.getLogger(__name__)

FILES = 65536
"""Open files we ask for, as far as the hard limit allows."""

FRESH_INTERVALS = 2.5
"""A signal older than so many sampling intervals is missing: one lost sample is forgiven."""


@dataclass(slots=True)
class _Service:
    """One service's parts."""

    name: str
    config: ServiceConfig
    pool: Pool
    prober: Prober
    proxy: ProxyServer
    log: rows.DecisionLog = field(default_factory=rows.DecisionLog)
    controller: Controller | None = None
    scaler: asyncio.Task[None] | None = None


class Balancer:
    """Everything `lbctl up` runs. Implements `lb.admin.control.Control`.

    `hosts` replaces the configured hypervisors, for tests; `images_home` is where images are kept
    if not in the installation's own folder.
    """

    def __init__(
        self,
        config: Config,
        installation: Installation,
        hosts: dict[str, Hypervisor] | None = None,
        images_home: Path | None = None,
    ) -> None:
        self.config = config
        self._home = installation.home
        self._images_home = images_home or installation.home
        self._instance = installation.instance
        self._journal = Journal(self._home / "journal.db")
        self._metrics = Metrics()
        self._cold_starts = Histogram()
        self._hosts = hosts if hosts is not None else self._make_hosts()
        self._host_errors: dict[str, str] = {}
        self._services = {name: self._make(name, part) for name, part in config.service.items()}
        self._guests = GuestView(self._guest_addresses)
        self._admin: AdminServer | None = None
        self._metrics.autoscaler(self._autoscaler_rows)

    # --- building

    def _make_hosts(self) -> dict[str, Hypervisor]:
        if not any(part.vm for part in self.config.service.values()):
            return {}
        return {
            h.name: LibvirtHypervisor(
                h.name,
                h.uri,
                instance=self._instance,
                home=self._home,
                domain_type=h.domain_type,
                network=h.network,
                call_timeout=h.call_timeout,
            )
            for h in self.config.hypervisor
        }

    def _make(self, name: str, part: ServiceConfig) -> _Service:
        pool = Pool.from_config(name, part)
        service = _Service(
            name=name,
            config=part,
            pool=pool,
            prober=Prober(pool),
            proxy=ProxyServer(self.config.proxy, pool, self._metrics.service(pool), part.queue),
        )
        if part.vm is not None:
            service.controller = self._make_controller(service, part.vm, part.scale)
        pool.subscribe(lambda change: self._pool_changed(service, change))
        return service

    def _make_controller(self, service: _Service, vm: VmConfig, scale: ScaleConfig) -> Controller:
        def decided(decision: Decision) -> None:
            service.log.decided(decision, time.time())

        fleet = VmFleet(
            service.name,
            self._hosts,
            _shape(vm),
            lambda: _boot_files(self._images_home, vm.image),
            instance=self._instance,
            max_existing=scale.max,
            clock=time.monotonic,
            wall_clock=time.time,
            new_id=uuid4,
            spawn=_spawn,
            emit=service.pool.apply,
            load=service.pool.load,
            note=self._note,
            activated=self._cold_starts.observe,
        )
        controller = Controller(
            fleet,
            self._hosts,
            _rules(scale),
            interval_s=scale.sample_interval,
            clock=LoopClock(),
            note=self._note,
            decided=decided,
        )
        for host in self._hosts.values():
            host.on_change(lambda _vm: controller.wake())
        return controller

    # --- running

    async def start(self) -> None:
        """Listen first, then scale. Raises LbError where an address cannot be had; nothing is
        left behind then."""
        self._journal.start()
        token = access.ensure_token(self._home)
        self._admin = AdminServer(
            self, self.config.admin.listen, token, self.config.admin.hosts, home=self._home
        )
        try:
            for service in self._services.values():
                await service.proxy.start()
            await self._admin.start()
        except BaseException:
            await self._stop_proxies(grace_s=0)
            await self._stop_rest()
            raise
        for service in self._services.values():
            await service.prober.start()
        await self._guests.start()
        for service in self._services.values():
            if service.controller is not None:
                service.scaler = spawn(
                    self._scale(service.controller), name=f"scaler {service.name}"
                )

    async def _scale(self, controller: Controller) -> None:
        # beside serving: a libvirt that is slow to open must not delay the first request
        await asyncio.gather(*(self._open(host) for host in self._hosts.values()))
        await controller.run()

    async def _open(self, host: Hypervisor) -> None:
        try:
            await host.open()
        except HypervisorError as error:
            # the controller goes on trying (each listing reconnects), serving does not wait for it
            self._host_errors[host.name] = str(error)
            log.warning("%s", error)

    async def stop(self, *, retire_vms: bool = False) -> None:
        """Finish the requests, then let go of the VMs: they live on unless they are to be retired.

        The journal and the admin API stay to the end, so that the retiring can be followed.
        """
        await self._stop_proxies(self.config.proxy.shutdown_grace)
        for service in self._services.values():
            await self._stop_scaling(service, retire_vms)
        await self._stop_rest()
        for host in self._hosts.values():
            with contextlib.suppress(HypervisorError):
                await host.close()

    async def _stop_scaling(self, service: _Service, retire_vms: bool) -> None:
        if service.controller is None or service.scaler is None:
            return
        if retire_vms:
            service.controller.retire()
            await asyncio.wait([service.scaler], timeout=_longest_goodbye(service.config.vm))
        service.controller.stop()
        await asyncio.wait([service.scaler])
        left = service.controller.fleet.counts().existing
        if retire_vms and left:
            log.warning("service %s: %d VMs could not be ended in time", service.name, left)

    async def _stop_proxies(self, grace_s: float) -> None:
        for service in self._services.values():
            stopped = await service.proxy.stop(grace_s)
            if stopped.cut:
                log.warning("%d requests cut at the deadline of %g s", len(stopped.cut), grace_s)

    async def _stop_rest(self) -> None:
        for service in self._services.values():
            await service.prober.stop()
        await self._guests.stop()
        if self._admin is not None:
            await self._admin.stop()
        await asyncio.to_thread(self._journal.close)

    def reload(self, config: Config) -> None:
        """Take over scale rules and static backends; says what needs a restart instead."""
        for name, service in self._services.items():
            part = config.service.get(name)
            if part is None:
                log.warning("service %s is gone from the configuration: that needs a restart", name)
                continue
            for address in set(service.config.backends) - set(part.backends):
                if address in service.pool:  # else an operator was faster
                    service.pool.remove(address)
            for address in part.backends:
                service.pool.add_static(address)
            if service.controller is not None:
                service.controller.rules = _rules(part.scale)
                service.controller.interval_s = part.scale.sample_interval
                service.controller.fleet.max_existing = part.scale.max
            rest = part.model_copy(
                update={"backends": service.config.backends, "scale": service.config.scale}
            )
            if rest != service.config:
                log.warning("service.%s: other changes need a restart", name)
            service.config = service.config.model_copy(
                update={"backends": part.backends, "scale": part.scale}
            )
        fixed = (self.config.proxy, self.config.admin, self.config.hypervisor)
        if (config.proxy, config.admin, config.hypervisor) != fixed:
            log.warning("changes in [proxy], [admin] and [[hypervisor]] need a restart")

    # --- tying

    def _note(self, happening: Happening) -> None:
        log.info("%s %s: %s", happening.kind, happening.reason.value, happening.message)
        self._journal.record(happening)

    def _pool_changed(self, service: _Service, change: Change) -> None:
        self._journal.record(
            Happening(
                f"backend.{change.after}",
                change.service,
                change.backend,
                change.reason,
                f"{change.backend} {change.before or 'new'} → {change.after}: {change.message}",
            )
        )
        if service.controller is not None:
            service.controller.wake()

    def _guest_addresses(self) -> dict[str, str]:
        return {
            status.name: status.address
            for service in self._services.values()
            if service.controller is not None
            for status in service.controller.fleet.statuses()
            if status.address is not None and status.state == "ready"
        }

    def _autoscaler_rows(self) -> AutoscalerRows:
        scaled = {n: s.controller for n, s in self._services.items() if s.controller is not None}
        logs = {name: self._services[name].log for name in scaled}
        return rows.autoscaler_rows(
            scaled, logs, {"cold": self._cold_starts.row()}, self._guests.cores
        )

    # --- Control: what the admin API asks

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def guest_cores(self) -> dict[str, float]:
        """Cores busy by VM, as the guests themselves see it."""
        return dict(self._guests.cores)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the proxy listens."""
        return next(iter(self._services.values())).proxy.addresses

    @property
    def host_infos(self) -> dict[str, HostInfo]:
        """What the open hypervisors are."""
        return {name: host.info for name, host in self._hosts.items() if host.info is not None}

    @property
    def controllers(self) -> dict[str, Controller]:
        return {n: s.controller for n, s in self._services.items() if s.controller is not None}

    def pool(self) -> dict[str, list[BackendView]]:
        found = {}
        for name, service in self._services.items():
            statuses = service.controller.fleet.statuses() if service.controller else ()
            cpu = {s.name: s.signal.utilisation for s in statuses if s.signal}
            found[name] = service.pool.snapshot(cpu)
        return found

    def add_backend(self, service: str, address: str) -> str:
        pool = self._service(service).pool
        if address in pool:
            raise RefusedError(f"{address} is a backend of {service} already")
        return pool.add_static(address).name

    def drain(self, service: str, name: str) -> None:
        self._service(service).pool.drain(name)

    def ready(self, service: str, name: str) -> None:
        found = self._service(service)
        vm = found.controller.fleet.get(name) if found.controller else None
        if vm is not None and vm.state == "draining":
            raise RefusedError(f"{name} is being retired by the autoscaler: it cannot come back")
        found.pool.ready(name)

    def remove(self, service: str, name: str) -> None:
        found = self._service(service)
        if found.controller is not None and found.controller.fleet.get(name) is not None:
            raise RefusedError(f"{name} is a VM: the autoscaler owns it; drain it instead")
        found.pool.remove(name)

    async def vms(self) -> list[VmRow]:
        return [
            rows.vm_row(status)
            for controller in self.controllers.values()
            for status in controller.fleet.statuses()
        ]

    async def hosts(self) -> list[HostRow]:
        statuses = [s for c in self.controllers.values() for s in c.fleet.statuses()]
        errors = {h: e for c in self.controllers.values() for h, e in c.unreachable.items()}
        return [
            rows.host_row(
                h.name,
                h.uri,
                self._hosts[h.name].info,
                # why it could not be opened at first tells nothing once it was
                errors.get(h.name)
                or (None if self._hosts[h.name].info else self._host_errors.get(h.name)),
                sum(s.host == h.name for s in statuses),
            )
            for h in self.config.hypervisor
            if h.name in self._hosts
        ]

    def scale(self, service: str) -> ScaleRow:
        found = self._service(service)
        return rows.scale_row(service, found.controller, found.log)

    def metrics(self) -> tuple[bytes, str]:
        return self._metrics.render()

    def is_ready(self) -> tuple[bool, str]:
        for name, service in self._services.items():
            if not service.pool.available:
                return False, f"service {name} has no backend that serves"
        return True, "every service has a backend that serves"

    def _service(self, name: str) -> _Service:
        service = self._services.get(name)
        if service is None:
            raise UnknownNameError(
                f"there is no service {name!r}: {', '.join(self._services)} is served"
            )
        return service


def _spawn(work: Coroutine[Any, Any, None], name: str) -> object:
    return spawn(work, name=name)


def _shape(vm: VmConfig) -> VmShape:
    return VmShape(
        vcpus=vm.vcpus,
        memory_mib=vm.memory_mib,
        app_port=vm.port,
        cpu_limit=vm.cpu_limit,
        boot_timeout_s=vm.boot_timeout,
        drain_timeout_s=vm.drain_timeout,
        shutdown_timeout_s=vm.shutdown_timeout,
    )


def _rules(scale: ScaleConfig) -> Rules:
    return Rules(
        min=scale.min,
        max=scale.max,
        target_cpu=scale.target_cpu,
        grow_window_s=scale.grow_window,
        shrink_window_s=scale.shrink_window,
        shrink_margin=scale.shrink_margin,
        fresh_s=FRESH_INTERVALS * scale.sample_interval,
    )


def _boot_files(home: Path, name: str) -> BootFiles:
    try:
        image = guest_image.load(home, name)
    except guest_image.ImageError as error:
        raise ImageUnavailable(str(error)) from error
    return BootFiles(
        generation=image.checksum,
        kernel=str(image.kernel),
        initrd=str(image.initrd or ""),
        disk=str(image.disk),
        cmdline=image.cmdline,
    )


def _longest_goodbye(vm: VmConfig | None) -> float:
    return 0.0 if vm is None else vm.drain_timeout + vm.shutdown_timeout + 10.0


def run(config: Config, home: Path, retire_vms: bool, config_path: Path | None) -> int:
    """Serve until SIGTERM or SIGINT. Raises LbError where it cannot start. Returns 0."""
    _raise_file_limit()
    with Installation(home) as installation:
        return uvloop.run(_serve(config, installation, retire_vms, config_path))


def _raise_file_limit() -> None:
    """Each request is a client's connection and a backend's: the usual 1024 files are soon gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(
    config: Config, installation: Installation, retire_vms: bool, config_path: Path | None
) -> int:
    balancer = Balancer(config, installation)
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, balancer, config_path)
    await balancer.start()
    log.info("serving at %s", ", ".join(f"http://{a}" for a in balancer.addresses))
    await ending.wait()
    log.info("stopping%s", ", and retiring the VMs" if retire_vms else "; the VMs stay")
    await balancer.stop(retire_vms=retire_vms)
    return 0


def _reload(balancer: Balancer, config_path: Path | None) -> None:
    try:
        balancer.reload(load_config(config_path))
    except (ConfigError, LbError) as error:
        log.warning("reload refused, nothing changed: %s", error)
    else:
        log.info("configuration read again")
