"""The composition root: builds the parts, ties them, starts and stops them in order.

The only place that knows both the proxy and the autoscaler. It decides nothing: events go from
fleet to pool, changes from pool to journal and controller, rows to the admin API.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from autoscale.controller import Controller
from autoscale.host import HostInfo, Hypervisor
from autoscale.model import Demand, Happening, Reason
from autoscale.model import Path as Way
from lb import config_file, rows, sockets
from lb.admin import access
from lb.admin.api import AdminServer
from lb.admin.control import HostRow, RefusedError, VmRow
from lb.autoscaler_metrics import AutoscalerRows
from lb.backend import BackendView
from lb.config import Config, ConfigError, ServiceConfig, load_config
from lb.config_changes import Changes, changes
from lb.decisions import Decisions
from lb.error_pages import ErrorPages
from lb.errors import LbError
from lb.fleet_orders import FleetOrders
from lb.guestview import GuestView
from lb.histogram import Histogram
from lb.hosts import Hosts
from lb.installation import Installation
from lb.journal import Journal
from lb.lead import Lead
from lb.least_together import policies_of
from lb.listener import ProxyServer
from lb.metrics import Metrics
from lb.pool import Change, Pool
from lb.probe import Manner
from lb.routes import routes_of
from lb.sampling import Sampler, Traffic
from lb.scaler import Scaler
from lb.series import Series
from lb.series_file import Row
from lb.served import Served
from lb.share import Share
from lb.site import Site
from lb.strays import Strays
from lb.tally import Tally
from lb.tasks import cancel, spawn
from lb.workers import Workers

log = logging.getLogger(__name__)

Pages = Mapping[str, ErrorPages]


class Balancer(FleetOrders):
    """Everything `lbctl up` runs. Implements `lb.admin.control.Control`.

    `config_path` is the file that `config` was read from. `hosts` replaces the configured
    hypervisors, for tests; `images_home` is where images are kept if not in the installation's own
    folder. Raises ConfigError where a file that the configuration names cannot be used.
    """

    def __init__(
        self,
        config: Config,
        installation: Installation,
        hosts: dict[str, Hypervisor] | None = None,
        images_home: Path | None = None,
        config_path: Path | None = None,
    ) -> None:
        self._config_path = config_path
        self._folder = config_path.parent if config_path is not None else Path.cwd()
        self.config = config = config_file.below(config, self._folder)
        super().__init__(installation.home)
        self._home = installation.home
        self._images_home = images_home or installation.home
        self._instance = installation.instance
        self._hosts = Hosts(self._home, self._instance, hosts, self._wake_scalers)
        self._journal = Journal(self._home / "journal.db")
        self._series = Series(self._home / "series.db", self._sample)
        self._sampler = Sampler()
        self._metrics = Metrics()
        self._activations = {way: Histogram() for way in Way}
        self._decisions = Decisions(keep=self._journal.keep)
        self._token = access.ensure_token(self._home)
        # what signs sessions must outlive the process, as the token does
        self._secret = hmac.digest(self._token.encode(), b"sticky sessions", "sha256")
        workers = config.proxy.workers
        self._share = Share(0, workers)
        self._tally = Tally.make(workers) if workers > 1 else None
        self._lead = Lead(self._metrics.unrouted, tally=self._tally)
        pages = config_file.read_files(config)
        self._services.update({n: self._make(n, config, pages) for n in config.service})
        self._server = ProxyServer(
            self._share.proxy(config.proxy),
            self._sites(config),
            routes_of(config),
            home=self._home,
            counters=self._metrics.unrouted,
            bind=partial(sockets.bind, shared=workers > 1),
        )
        self.workers = Workers(
            workers, self._home, self._secret, self._server, self._lead, self._tally, self._note
        )  # fmt: skip
        self._metrics.workers(self.workers.counts)
        self._metrics.access_log(lambda: self._server.proxy.access_log.dropped + self._lead.dropped)
        self._guests = GuestView(self._guest_addresses)
        self._strays = Strays(self._hosts.by_name, lambda: self.controllers, self._note)
        self._looking: asyncio.Task[None] | None = None
        self._admin: AdminServer | None = None
        self._changing = asyncio.Lock()
        """Held while the process starts, takes over a configuration, or begins to stop."""
        self._ending = False
        self._metrics.autoscaler(self._autoscaler_rows)

    # --- building

    def _make(self, name: str, config: Config, pages: Pages) -> Served:
        served = Served(
            name,
            config.service[name],
            config.proxy,
            self._metrics.service,
            pages[name],
            self._secret,
            self._make_scaler,
            self._share,
            policies_of(self._tally, self._lead.slot_of),
        )
        served.pool.subscribe(lambda change: self._pool_changed(served, change))
        self._lead.follow(served.site)
        return served

    def _make_scaler(
        self,
        pool: Pool,
        config: ServiceConfig,
        demand: Callable[[], Demand],
        manner: Callable[[], Manner],
    ) -> Scaler:
        return Scaler(
            pool,
            config,
            demand,
            manner,
            hosts=self._hosts.by_name,
            instance=self._instance,
            home=self._home,
            images_home=self._images_home,
            overrides=self._overrides,
            rollouts=self._rollouts,
            decisions=self._decisions,
            note=self._note,
            activated=self._activated,
        )

    def _sites(self, config: Config) -> dict[str, Site]:
        return {name: self._services[name].site for name in config.service}

    # --- running

    async def start(self) -> None:
        """Listen first, then scale. Raises LbError where an address cannot be had; nothing is
        left behind then."""
        async with self._changing:
            self._journal.start()
            self._decisions.remember(self._journal.decisions)
            self._admin = AdminServer(
                self, self.config.admin.listen, self._token, self.config.admin.hosts,
                home=self._home,
            )  # fmt: skip
            try:
                await self._server.start()
                await self._admin.start()
                await self.workers.start(self.config)
            except BaseException:
                await self._stop_serving(0)
                await self._stop_rest()
                raise
            for served in self._services.values():
                await served.start()
            await self._guests.start()
            self._series.start()
            self._scale_all()

    def _scale_all(self) -> None:
        """Let every service's machines be what the configuration says."""
        if not self._hosts.needed(self.config):
            return
        opening = self._hosts.connect(self.config.hypervisor)
        for served in self._services.values():
            if not served.leaving:
                served.scale(opening)
        if self._looking is None:
            self._looking = spawn(self._strays.run(opening), name="looking for strays")

    def hurry(self) -> None:
        """While stopping: cut the requests that are still running."""
        self._server.hurry()
        self.workers.hurry()

    async def stop(self, *, retire_vms: bool = False) -> None:
        """Finish the requests, then let go of the VMs: they live on unless they are to be retired.

        The journal and the admin API stay to the end, so that the retiring can be followed.
        """
        async with self._changing:
            self._ending = True
        await self._stop_serving(self.config.proxy.shutdown_grace)
        await cancel(self._looking)
        await asyncio.gather(
            *(served.stop_scaling(retire_vms=retire_vms) for served in self._services.values()),
            *([self._retire_strays()] if retire_vms else []),
        )
        await self._stop_rest()
        await self._hosts.close()

    async def _stop_serving(self, grace_s: float) -> None:
        stopped, _ = await asyncio.gather(self._server.stop(grace_s), self.workers.stop(grace_s))
        if stopped.cut:
            log.warning("running requests that were cut: %d", len(stopped.cut))

    async def _retire_strays(self) -> None:
        """End the VMs that no service of the configuration owns, each by a scaler of its own."""
        opening = self._hosts.connect(self.config.hypervisor)
        await asyncio.wait([opening])
        await self._strays.look()
        nothing = ServiceConfig()
        scalers = [
            self._make_scaler(Pool.from_config(name, nothing), nothing, lambda: Demand(0.0), Manner)
            for name in self._strays.services
        ]
        for scaler in scalers:
            scaler.retire()
            scaler.start(opening)
        await asyncio.gather(*(scaler.stop(retire_vms=True) for scaler in scalers))

    async def _stop_rest(self) -> None:
        await self._series.stop()
        for served in self._services.values():
            await served.close()
        self._lead.close()
        await self._guests.stop()
        if self._admin is not None:
            await self._admin.stop()
        await asyncio.to_thread(self._journal.close)

    # --- another configuration

    async def apply_config(
        self, text: str | None = None, folder: Path | None = None, *, dry_run: bool = False
    ) -> Changes:
        """See `Control`. Whoever sends SIGHUP gets this too, with the file we started with."""
        try:
            if text is not None:
                config = config_file.read_text(text, folder or self._folder)
            else:
                config = await asyncio.to_thread(load_config, self._config_path)
            return await self.reload(config, dry_run=dry_run)
        except (ConfigError, LbError) as error:
            if not dry_run:
                log.warning("configuration refused, nothing changed: %s", error)
                self._journal.record(_told("refused", f"nothing changed: {error}"))
            raise

    async def reload(self, config: Config, *, dry_run: bool = False) -> Changes:
        """Take over another configuration while requests go on. Raises ConfigError or LbError, and
        then nothing has changed. Says what it changed."""
        config = config_file.below(config, self._folder)
        async with self._changing:
            if self._ending:
                raise RefusedError("this process is stopping: it takes over nothing more")
            found = changes(self.config, config, hosts_open=self._hosts.opening is not None)
            pages = await asyncio.to_thread(config_file.read_files, config)
            if dry_run:
                return found
            await self._take_over(config, pages)
        for sentence in found.waiting:
            log.warning("%s", sentence)
        said = "; ".join((*found.made, *found.waiting)) or "nothing to change, files read again"
        log.info("configuration applied: %s", said)
        self._journal.record(_told("applied", said))
        return found

    async def _take_over(self, config: Config, pages: Pages) -> None:
        before = dict(self._services)
        returning = [s for s in before.values() if s.leaving and s.name in config.service]
        for served in returning:
            await served.come_back()
        fresh = {
            name: self._make(name, config, pages)
            for name in config.service
            if name not in before
        }  # fmt: skip
        self._services.update(fresh)
        try:
            for served in fresh.values():
                await served.start()
            kept = {name: self._services[name] for name in config.service}
            await asyncio.gather(*(kept[n].prepare(part) for n, part in config.service.items()))
            proxy = self._share.proxy(config.proxy)
            await self._server.reconfigure(proxy, self._sites(config), routes_of(config))
        except BaseException:
            for served in before.values():
                served.revert()
            for served in returning:
                self._leave(served)
            for name, served in fresh.items():
                self._forget(name)
                await served.close()
            raise
        for name, part in config.service.items():
            try:
                kept[name].configure(part, config.proxy, pages[name])
            except LbError as error:
                # a file that was fine a moment ago; by now the rest is in force
                log.warning("service %s keeps its settings: %s", name, error)
        # what needs a restart stays as it was, and will be said again
        workers = {"workers": self.config.proxy.workers}
        fixed: dict[str, object] = {
            "admin": self.config.admin, "proxy": config.proxy.model_copy(update=workers)
        }  # fmt: skip
        if self._hosts.opening is not None:
            fixed["hypervisor"] = self.config.hypervisor
        self.config = config.model_copy(update=fixed)
        await self.workers.configure(self.config)
        for name, served in before.items():
            if name not in config.service and not served.leaving:
                self._leave(served)
        self._scale_all()

    def _leave(self, served: Served) -> None:
        def gone() -> None:
            self._server.cut(served.site)
            self._forget(served.name)
            self._forget_orders(served.name)
            self._note(_told("gone", f"service {served.name} has left", served.name))
            spawn(served.close(), name=f"closing of {served.name}")

        ended = " and its VMs are retired" if served.scaler is not None else ""
        self._note(
            _told("leaving", f"service {served.name}: its requests finish{ended}", served.name)
        )
        served.leave(self.config.proxy.shutdown_grace, gone)

    def _forget(self, name: str) -> None:
        del self._services[name]
        self._lead.forget(name)
        self._metrics.forget(name)

    # --- tying

    def _note(self, happening: Happening) -> None:
        log.info("%s %s: %s", happening.kind, happening.reason.value, happening.message)
        self._journal.record(happening)

    def _activated(self, path: Way, seconds: float) -> None:
        self._activations[path].observe(seconds)

    def _pool_changed(self, served: Served, change: Change) -> None:
        self._journal.record(
            Happening(
                f"backend.{change.after}",
                change.service,
                change.backend,
                change.reason,
                f"{change.backend} {change.before or 'new'} → {change.after}: {change.message}",
            )
        )
        if served.scaler is not None:
            served.scaler.controller.wake()

    def _wake_scalers(self) -> None:
        for controller in self.controllers.values():
            controller.wake()

    def _guest_addresses(self) -> dict[str, str]:
        return {
            status.name: status.address
            for controller in self.controllers.values()
            for status in controller.fleet.statuses()
            if status.address is not None and status.state == "ready"
        }

    def _autoscaler_rows(self) -> AutoscalerRows:
        scalers = self._scalers
        return rows.autoscaler_rows(
            {name: scaler.controller for name, scaler in scalers.items()},
            {name: scaler.log for name, scaler in scalers.items()},
            {path.value: starts.row() for path, starts in self._activations.items()},
            self._guests.cores,
            self._hosts.contacts,
            hosts_up=self._hosts.reachable(self.controllers),
        )

    def _sample(self) -> list[Row]:
        traffic = {name: Traffic.of(served.site) for name, served in self._services.items()}
        return self._sampler.rows(self._autoscaler_rows(), traffic)

    # --- Control: what the admin API asks

    @property
    def journal(self) -> Journal:
        return self._journal

    @property
    def series(self) -> Series:
        return self._series

    @property
    def guest_cores(self) -> dict[str, float]:
        """Cores busy by VM, as the guests themselves see it."""
        return dict(self._guests.cores)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the proxy listens."""
        return self._server.addresses

    @property
    def urls(self) -> tuple[str, ...]:
        """The same as a client would write them."""
        return self._server.urls

    @property
    def host_infos(self) -> dict[str, HostInfo]:
        """What the open hypervisors are."""
        return self._hosts.infos

    @property
    def controllers(self) -> dict[str, Controller]:
        """By service; those whose VMs retire included."""
        return {name: scaler.controller for name, scaler in self._scalers.items()}

    def pool(self) -> dict[str, list[BackendView]]:
        found = {}
        for name, served in self._services.items():
            statuses = served.scaler.fleet.statuses() if served.scaler is not None else ()
            cpu = {s.name: s.signal.utilisation for s in statuses if s.signal}
            found[name] = served.pool.snapshot(cpu)
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
        vm = found.scaler.fleet.get(name) if found.scaler is not None else None
        if vm is not None and vm.state == "draining":
            raise RefusedError(f"{name} is being retired by the autoscaler: it cannot come back")
        found.pool.ready(name)

    def remove(self, service: str, name: str) -> None:
        found = self._service(service)
        if found.scaler is not None and found.scaler.fleet.get(name) is not None:
            raise RefusedError(f"{name} is a VM: the autoscaler owns it; drain it instead")
        found.pool.remove(name)

    async def vms(self) -> list[VmRow]:
        ours = [
            rows.vm_row(status, scaler.image_names.get(status.generation))
            for scaler in self._scalers.values()
            for status in scaler.fleet.statuses()
        ]
        return [*ours, *self._strays.rows()]

    async def hosts(self) -> list[HostRow]:
        return self._hosts.rows(self.controllers)

    @property
    def decisions(self) -> Decisions:
        return self._decisions

    def metrics(self) -> tuple[bytes, str]:
        return self._metrics.render()

    def is_ready(self) -> tuple[bool, str]:
        # not those that leave, or get ready to come
        return rows.readiness(self._sites(self.config))


def _told(what: str, message: str, service: str = "") -> Happening:
    kind = f"service.{what}" if service else f"config.{what}"
    return Happening(kind, service, service or "config", Reason.OPERATOR, message)
