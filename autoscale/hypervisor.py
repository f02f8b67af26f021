"""libvirt from asyncio: the only file that imports it, and no `libvirtError` leaves it.

Blocking calls run on this host's own few threads; libvirt's callbacks only enqueue. It must not
decide anything: it lists, starts, limits and ends domains that carry our metadata, and never
touches another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import libvirt
import libvirt_qemu

from autoscale import addresses, agent, counters, domain_xml, verdicts
from autoscale.belongings import Belongings, free_port
from autoscale.changes import Changes
from autoscale.domain_xml import DomainXmlError, HostSettings, Identity, VmSpec
from autoscale.embedded import EmbeddedRoot
from autoscale.hold import Hold, this_process
from autoscale.host import (
    Domain,
    DomainRefused,
    HostInfo,
    HostUnreachable,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
    PowerState,
    SnapshotUnusable,
)
from autoscale.hostinfo import Asked, describe
from autoscale.known import Known, KnownDomains
from autoscale.link import Link
from autoscale.listing import figures
from autoscale.saved_guest import NewGuest, UnknownSaveFormat
from autoscale.saved_store import Damaged, SavedStore
from autoscale.threads import OneLoop

T = TypeVar("T")
Start = Callable[[Any, VmSpec, HostSettings], Any]
"""With this connection, start this VM; returns its domain."""

PORT_TRIES = 3

_STATS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
)
_NOWAIT = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT


def _register_event_loop() -> None:
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()


_events = OneLoop("libvirt-events", _register_event_loop, lambda: libvirt.virEventRunDefaultImpl())
"""libvirt's own event loop, once per process, before any open. libvirtaio is not used: an event
due at 0.5 s was seen delivered at 3.0 s through it."""


class LibvirtHypervisor(Link):
    """One libvirt connection. See `host.Hypervisor` for what each call promises."""

    def __init__(
        self,
        name: str,
        uri: str,
        *,
        instance: str,
        home: Path,
        domain_type: str = "auto",
        network: str = "auto",
        call_timeout: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedded = EmbeddedRoot.of(uri, home)
        super().__init__(name, self._embedded.uri if self._embedded else uri, call_timeout, clock)
        self._instance = instance
        self._belongings = Belongings(home, name, instance, clock, _or_none, self._embedded)
        self._store = SavedStore(home / "saved" / name)
        self._is_test = uri.startswith("test:")
        self._local_files = self._embedded is not None or uri.startswith("qemu:///session")
        if self._embedded is None and not self._is_test:  # those no other process can reach
            self._hold = Hold(name, instance, this_process(), clock, libvirt.libvirtError)
        self._domain_type = domain_type
        self._network = network
        if network == "auto":
            self._network = "user" if self._local_files else "network:default"
        self._relabels, self._fifo = False, True
        self._known = KnownDomains()
        self._changes = Changes(self._known)
        self._swept = False

    # --- connection

    async def open(self) -> HostInfo:
        """Connect. Raises HostUnreachable with what to do about it."""
        self._changes.belong_to(asyncio.get_running_loop())
        return await super().open()

    def _opened_anew(self) -> tuple[Any, HostInfo]:
        if self._embedded:
            self._embedded.prepare()
        _events.start()
        try:
            conn = libvirt.open(self._uri)
        except libvirt.libvirtError as error:
            reason = _line(error)
            if self._embedded:
                reason = self._embedded.explain(reason)
            raise HostUnreachable(f"cannot open {self._uri}: {reason}") from error
        try:
            with contextlib.suppress(libvirt.libvirtError):
                conn.setKeepAlive(5, 3)  # local drivers have none
            self._changes.listen(conn, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE)
            info = self._describe(conn)
        except BaseException:
            self._let_go(conn)
            raise
        self._known.forget()
        return conn, info

    def _let_go(self, conn: Any) -> None:
        _or_none(partial(self._changes.leave, conn))
        _or_none(conn.close)

    def _describe(self, conn: Any) -> HostInfo:
        asked = Asked(
            self._name,
            self._uri,
            self._network,
            self._domain_type,
            is_test=self._is_test,
            local_files=self._local_files,
            agent_fits=self._belongings.agents.fit,
        )
        said = describe(conn, asked, _or_none)
        self._relabels, self._fifo = said.relabels, said.by_fifo
        return said.info

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except libvirt.libvirtError as error:
            code = error.get_error_code()
            if code == libvirt.VIR_ERR_NO_DOMAIN:
                raise NoSuchDomain(_line(error)) from error
            if verdicts.is_lost(code) and not self._embedded:
                raise HostUnreachable(f"{self._name}: {_line(error)}") from error
            words = f"{self._name}: {_line(error)}"
            raise verdicts.shortage(words) or HypervisorError(words) from error
        except (OSError, ValueError) as error:
            # no room for a console, no file descriptor left, or a text that is not XML
            words = f"{self._name}: {_line(error)}"
            raise verdicts.own_refusal(error, words) or HypervisorError(words) from error

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._changes.tell(callback)

    # --- listing

    async def observe(self) -> tuple[Domain, ...]:
        return await self._call(self._observe)

    def _observe(self) -> tuple[Domain, ...]:
        conn = self._live()
        seen: dict[str, Known] = {}
        elsewhere: set[str] = set()
        found = []
        rows = figures(conn, _STATS, _NOWAIT, expected=len(self._known), clock=self._clock)
        for dom, stats, at in rows:
            uuid = dom.UUIDString()
            known = self._known.get(uuid) or self._meet(dom)
            if known is None:
                if not self._local_files:  # here, one that has just gone is not there
                    elsewhere.add(dom.name())
                continue
            seen[uuid] = known
            if known.identity is not None:
                # its number is another one after each start, and on each host
                run = f"{self._name}/{dom.ID()}"
                found.append(
                    Domain(
                        known.name,
                        uuid,
                        counters.power_from_stats(stats),
                        known.identity,
                        counters.sample_from_stats(known.name, known.limit_cores, stats, at, run),
                    )
                )
        self._known.listed(seen)
        # not only ours: what is there is not swept
        names = {known.name for known in seen.values()} | elsewhere
        self._belongings.sweep(conn, names, local=self._local_files)
        if not self._swept and self._local_files:
            self._store.sweep()
            self._swept = True
        return tuple(found)

    def _meet(self, dom: Any) -> Known | None:
        """First sight of a domain: is it ours? None where it vanished meanwhile."""
        try:
            identity = domain_xml.parse_identity(dom.XMLDesc(0))
        except DomainXmlError:
            return Known(dom.name(), None)
        except libvirt.libvirtError:
            return None
        if identity.instance != self._instance:
            return Known(dom.name(), None)
        return Known(dom.name(), identity, _limit_in_force(dom))

    # --- one domain

    def _ours(self, name: str) -> Any:
        """The domain of that name, if it is ours. Raises NoSuchDomain."""
        dom = self._live().lookupByName(name)
        uuid = dom.UUIDString()
        known = self._known.get(uuid) or self._meet(dom)
        if known is None or known.identity is None:
            raise NoSuchDomain(f"{name} is not a domain of ours: left alone")
        self._known.learn(uuid, known)
        return dom

    async def create(self, spec: VmSpec) -> Identity:
        def boot(conn: Any, spec: VmSpec, settings: HostSettings) -> Any:
            return conn.createXML(domain_xml.domain_xml(spec, settings), 0)

        return await self._while_waited_for(lambda wanted: self._start(spec, boot, wanted))

    async def restore(self, spec: VmSpec, key: str) -> Identity:
        return await self._while_waited_for(lambda wanted: self._restore(spec, key, wanted))

    def _restore(self, spec: VmSpec, key: str, wanted: Callable[[], bool]) -> Identity:
        def copy(conn: Any, spec: VmSpec, settings: HostSettings) -> Any:
            new = NewGuest(
                name=spec.name,
                uuid=spec.uuid,
                genid=spec.genid or spec.uuid,
                identity=spec.identity,
                console_log=settings.console_log,
                agent_socket=settings.agent_socket,
            )
            with self._store.copy(key, new, by_fifo=self._fifo) as path:
                conn.restoreFlags(path, None, 0)
            return conn.lookupByUUIDString(spec.uuid)

        try:
            return self._start(spec, copy, wanted)
        except DomainRefused as refused:
            error = refused.__cause__
            if not isinstance(error, libvirt.libvirtError) or verdicts.is_shortage(refused):
                raise  # the file is not to blame
            self._store.discard(key)
            raise SnapshotUnusable(str(refused)) from error
        except (Damaged, OSError, ValueError) as error:
            self._belongings.remove(self._conn, spec.name)
            if verdicts.own_refusal(error, "") is not None:
                raise  # the disk is full, or the like: the file is not to blame
            self._store.discard(key)
            raise SnapshotUnusable(f"{self._name}: {_line(error)}") from error

    def _start(self, spec: VmSpec, start: Start, wanted: Callable[[], bool]) -> Identity:
        conn = self._live()
        if self._info is None:
            raise HostUnreachable(f"{self._name}: not connected")
        settings: HostSettings | None = None
        identity = spec.identity
        for attempt in range(1, PORT_TRIES + 1):
            if self._network == "user":
                identity = replace(identity, host_port=free_port())
            try:
                settings = settings or self._settings(conn, spec, self._info)
                dom = start(conn, replace(spec, identity=identity), settings)
            except OSError:
                self._belongings.remove(conn, spec.name)
                raise
            except libvirt.libvirtError as error:
                # between our look and QEMU's bind somebody else may have taken the port
                if "host forwarding rule" in str(error) and attempt < PORT_TRIES:
                    continue
                told = error.get_error_code(), error.get_error_domain()
                if not self._embedded and verdicts.is_creation_lost(*told, bool(conn.isAlive())):
                    raise HostUnreachable(f"{self._name}: {_line(error)}") from error
                self._belongings.remove(conn, spec.name)
                words = f"{self._name} refuses {spec.name}: {_line(error)}"
                files = spec.kernel, spec.initrd, spec.disk
                room = self._belongings.free_bytes if self._local_files else None
                raise verdicts.refusal(words, files, room) from error
            if not wanted():
                # nobody counts it any more: left alone, it would be one more than max allows
                dom.destroyFlags(0)
                self._belongings.remove(conn, spec.name)
                raise DomainRefused(f"{self._name}: {spec.name} came too late")
            self._known.learn(dom.UUIDString(), Known(spec.name, identity))
            return identity
        raise AssertionError("unreachable")

    def _settings(self, conn: Any, spec: VmSpec, info: HostInfo) -> HostSettings:
        """With all made that the VM has beside its domain."""
        kept = self._belongings.prepare(conn, spec, local=self._local_files)
        return HostSettings(
            domain_type=info.domain_type,
            network=self._network,
            console_log=kept.console_log,
            agent_socket=kept.agent_socket,
            relabels=self._relabels,
            own_disk=kept.own_disk,
        )

    # --- saved guests

    async def saved(self) -> frozenset[str]:
        if self._no_copies():
            return frozenset()
        return await self._call(self._store.keys)

    async def keep_saved(self, services: Collection[str]) -> None:
        if not self._no_copies():
            await self._call(lambda: self._store.keep(services))

    async def save(self, domain: str, key: str) -> None:
        if why := self._no_copies():
            raise HypervisorError(f"{self._name} saves no guests: {why}")
        await self._while_waited_for(lambda wanted: self._save(domain, key, wanted))
        self._belongings.consoles.remove(domain)

    def _no_copies(self) -> str:
        return self._info.copies if self._info is not None else f"{self._name}: not connected"

    def _save(self, name: str, key: str, wanted: Callable[[], bool]) -> None:
        dom = self._ours(name)
        # saved without a listening agent, its copies could never be told who they are
        agent.patiently(lambda: _set_time(dom), agent.STARTS_S, self._clock)
        try:
            self._store.write(
                key, lambda path: dom.saveFlags(path, None, libvirt.VIR_DOMAIN_SAVE_RUNNING), wanted
            )
        except UnknownSaveFormat as error:
            raise HypervisorError(f"{self._name}: a saved guest cannot be read: {error}") from error

    # --- a guest that stood still

    async def suspend(self, domain: str) -> None:
        await self._call(lambda: self._suspend(domain))

    def _suspend(self, name: str) -> None:
        dom = self._ours(name)
        if _power(dom) is not PowerState.PAUSED:
            dom.suspend()

    async def resume(self, domain: str) -> None:
        await self._call(lambda: self._resume(domain))

    def _resume(self, name: str) -> None:
        dom = self._ours(name)
        if _power(dom) is not PowerState.RUNNING:
            dom.resume()

    async def introduce(self, domain: str, name: str, seed: bytes) -> None:
        await self._call(lambda: self._introduce(domain, agent.wake_command(name, seed)))

    def _introduce(self, domain: str, command: str) -> None:
        dom = self._ours(domain)
        asked = partial(libvirt_qemu.qemuAgentCommand, dom, command, agent.LIMIT_S, 0)
        agent.patiently(asked, agent.CONNECTS_S, self._clock)
        _set_time(dom)

    async def set_time(self, domain: str) -> None:
        await self._call(lambda: _set_time(self._ours(domain)))

    # --- its settings

    async def address(self, domain: str, identity: Identity) -> str | None:
        if identity.host_port:
            return f"127.0.0.1:{identity.host_port}"
        return await self._call(lambda: self._address(domain, identity))

    def _address(self, name: str, identity: Identity) -> str | None:
        dom = self._ours(name)
        for source in addresses.SOURCES:
            # no lease table, or no agent yet: ask the next source
            told = _or_none(partial(dom.interfaceAddresses, source)) or {}
            if ip := addresses.first_ipv4(told):
                return f"{ip}:{identity.app_port}"
        network = addresses.network_of(self._network)
        if network is None:
            return None
        xml = _or_none(lambda: self._live().networkLookupByName(network).XMLDesc(0))
        ip = addresses.reserved(xml, addresses.macs(dom.XMLDesc(0))) if xml else None
        return f"{ip}:{identity.app_port}" if ip else None

    async def set_cpu_limit(self, domain: str, cores: float | None) -> None:
        await self._call(lambda: self._set_cpu_limit(domain, cores))

    def _set_cpu_limit(self, name: str, cores: float | None) -> None:
        dom = self._ours(name)
        self._schedule(dom, lambda: counters.quota_of(cores, dom.maxVcpus()))
        self._known.change(dom.UUIDString(), limit_cores=cores)

    async def set_cpu_weight(self, domain: str, weight: int) -> None:
        await self._call(lambda: self._set_cpu_weight(domain, weight))

    def _set_cpu_weight(self, name: str, weight: int) -> None:
        dom, live = self._ours(name), libvirt.VIR_DOMAIN_AFFECT_LIVE

        def parameters() -> dict[str, int]:
            in_force = dom.schedulerParametersFlags(live).get("cpu_shares")
            return {"cpu_shares": counters.weight_of(weight, in_force or weight)}

        self._schedule(dom, parameters)

    def _schedule(self, dom: Any, parameters: Callable[[], dict[str, int]]) -> None:
        try:
            dom.setSchedulerParametersFlags(parameters(), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            if verdicts.cannot_limit(error.get_error_code(), str(error)):
                reason = f"{self._name} cannot limit CPU: {_line(error)}"
                raise LimitUnsupported(reason) from error
            raise

    async def set_identity(self, domain: str, identity: Identity) -> None:
        await self._call(lambda: self._set_identity(domain, identity))

    def _set_identity(self, name: str, identity: Identity) -> None:
        dom = self._ours(name)
        dom.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            domain_xml.identity_xml(identity),
            domain_xml.METADATA_PREFIX,
            domain_xml.METADATA_URI,
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )
        self._known.change(dom.UUIDString(), identity=identity)

    async def shutdown(self, domain: str) -> None:
        await self._call(
            lambda: self._ours(domain).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        )

    async def destroy(self, domain: str) -> None:
        await self._call(lambda: self._destroy(domain))

    def _destroy(self, name: str) -> None:
        conn = self._live()
        with contextlib.suppress(NoSuchDomain):
            self._translated(lambda: self._destroyed(self._ours(name)))
        self._belongings.remove(conn, name)

    def _destroyed(self, dom: Any) -> None:
        kept = dom.isPersistent()  # ours are not: somebody defined it, and off it would stay
        try:
            if dom.isActive():
                dom.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return
            dom.destroyFlags(0)
        if kept:
            dom.undefine()

    async def console_tail(self, domain: str, lines: int = 20) -> str:
        if not self._local_files:
            return ""
        return await self._call(lambda: self._belongings.consoles.tail(domain, lines))


def _limit_in_force(dom: Any) -> Any:
    """The CPU limit a domain already has, in cores: an adopted one may be limited."""
    flag = libvirt.VIR_DOMAIN_AFFECT_LIVE
    return _or_none(lambda: counters.limit_of(dom.schedulerParametersFlags(flag), dom.maxVcpus()))


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except libvirt.libvirtError:
        return None


def _power(dom: Any) -> PowerState:
    return counters.power_from_stats({"state.state": dom.state()[0]})


def _set_time(dom: Any) -> None:
    dom.setTime(agent.time_of(time.time_ns()), 0)


def _line(error: Any) -> str:
    return verdicts.in_one_line(str(error))
