"""libvirt from asyncio: the only file that imports it, and no `libvirtError` leaves it.

Blocking calls run on this host's own few threads; libvirt's callbacks only enqueue. It must not
decide anything: it lists, starts, limits and ends domains that carry our metadata, and never
touches another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import libvirt

from autoscale import counters, domain_xml, verdicts
from autoscale.console import Consoles
from autoscale.domain_xml import DomainXmlError, HostSettings, Identity, VmSpec
from autoscale.embedded import EmbeddedRoot
from autoscale.host import (
    Domain,
    DomainRefused,
    HostInfo,
    HostUnreachable,
    HypervisorError,
    LimitUnsupported,
    NoSuchDomain,
)
from autoscale.known import Known, KnownDomains
from autoscale.threads import NoAnswer, OneLoop, TimedCalls

T = TypeVar("T")

THREADS = 4
"""Per host. A call that hangs costs one; with all of them hanging the host is unreachable."""

RECONNECT_S = 2.0
PORT_TRIES = 3

_STATS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
)
_ADDRESS_SOURCES = (
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
    libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
)


def _register_event_loop() -> None:
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()


_events = OneLoop("libvirt-events", _register_event_loop, lambda: libvirt.virEventRunDefaultImpl())
"""libvirt's own event loop, once per process, before any open. libvirtaio is not used: an event
due at 0.5 s was seen delivered at 3.0 s through it."""


class LibvirtHypervisor:
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
        self._name = name
        self._instance = instance
        self._consoles = Consoles(home / "console", name)
        self._embedded = EmbeddedRoot.of(uri, home)
        self._uri = self._embedded.uri if self._embedded else uri
        self._is_test = uri.startswith("test:")
        self._local_files = self._embedded is not None or uri.startswith("qemu:///session")
        self._domain_type = domain_type
        self._network = network
        if network == "auto":
            self._network = "user" if self._local_files else "network:default"
        self._clock = clock
        self._calls = TimedCalls(THREADS, f"libvirt-{name}", call_timeout)
        self._closed = False
        self._connecting = threading.Lock()
        self._conn: Any = None
        self._info: HostInfo | None = None
        self._relabels = False
        self._tried_at, self._trouble = -RECONNECT_S, ""
        self._known = KnownDomains()
        self._swept = False
        self._callbacks: list[Callable[[str], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def info(self) -> HostInfo | None:
        return self._info

    # --- connection

    async def open(self) -> HostInfo:
        """Connect. Raises HostUnreachable with what to do about it."""
        self._loop = asyncio.get_running_loop()
        return await self._call(self._opened)

    async def close(self) -> None:
        self._closed = True  # first: whoever connects meanwhile sees it, and lets go again
        conn, self._conn, self._info = self._conn, None, None
        if conn is not None:
            with contextlib.suppress(HypervisorError):
                await self._run(lambda: conn.close())
        self._calls.close()

    def _opened(self) -> HostInfo:
        with self._connecting:
            if not self._alive():
                self._connect()
            if self._info is None:
                raise HostUnreachable(f"{self._name}: the connection is closed")
            return self._info

    def _alive(self) -> Any:
        """The connection, None where it is lost."""
        conn = self._conn
        return conn if conn is not None and conn.isAlive() else None

    def _connect(self) -> Any:
        """Only with `_connecting` held: two at once would leave one connection nobody closes."""
        dead, self._conn = self._conn, None
        if dead is not None:
            with contextlib.suppress(libvirt.libvirtError):
                dead.close()
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
            conn.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None
            )
            info = self._describe(conn)
        except libvirt.libvirtError:
            conn.close()
            raise
        self._known.forget()
        self._info, self._conn = info, conn
        if self._closed:
            self._info, self._conn = None, None
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()
            raise HostUnreachable(f"{self._name}: the connection is closed")
        return conn

    def _describe(self, conn: Any) -> HostInfo:
        capabilities = conn.getCapabilities()
        domain_type, why = self._choose_domain_type(conn, capabilities)
        self._relabels = domain_xml.host_relabels(capabilities)
        info = conn.getInfo()
        version = conn.getLibVersion()
        return HostInfo(
            name=self._name,
            uri=self._uri,
            domain_type=domain_type,
            why=why,
            cores=info[2],
            memory_bytes=info[1] * 1024 * 1024,
            libvirt_version=f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}",
            network=self._network,
            cpu_limits=not self._is_test and (os.getuid() == 0 or not self._local_files),
        )

    def _choose_domain_type(self, conn: Any, capabilities: str) -> tuple[str, str]:
        if self._is_test:
            return "test", "libvirt's test driver"
        if self._domain_type != "auto":
            return self._domain_type, "as configured"
        try:
            expanded = conn.baselineCPU(
                [domain_xml.host_cpu_xml(capabilities)],
                libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES,
            )
        except libvirt.libvirtError:
            expanded = ""
        if domain_xml.host_offers_kvm(capabilities, expanded):
            return "kvm", "libvirt offers it and the CPU has vmx or svm"
        return "qemu", "software emulation: the host's CPU shows neither vmx nor svm to KVM"

    def _live(self) -> Any:
        """The connection, opened again where it was lost, at most every RECONNECT_S."""
        if conn := self._alive():
            return conn
        # not waited for: a connect that hangs shall cost one thread, not all
        if not self._connecting.acquire(blocking=False):
            raise HostUnreachable(f"{self._name}: connecting to {self._uri}")
        try:
            if conn := self._alive():
                return conn  # another thread was faster
            if (now := self._clock()) - self._tried_at < RECONNECT_S:
                raise HostUnreachable(self._trouble or f"{self._name}: not connected")
            self._tried_at, self._trouble = now, ""
            try:
                return self._translated(self._connect)
            except HypervisorError as error:
                self._trouble = str(error)
                raise
        finally:
            self._connecting.release()

    async def _call(self, work: Callable[[], T]) -> T:
        """Run a blocking call on our threads, within the time limit, errors translated."""
        if self._closed:
            raise HostUnreachable(f"{self._name}: the connection is closed")
        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await self._calls.call(lambda: self._translated(work))
        except NoAnswer as error:
            raise HostUnreachable(f"{self._name}: {error}") from error

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except libvirt.libvirtError as error:
            code = error.get_error_code()
            if code == libvirt.VIR_ERR_NO_DOMAIN:
                raise NoSuchDomain(_line(error)) from error
            if verdicts.is_lost(code) and not self._embedded:
                raise HostUnreachable(f"{self._name}: {_line(error)}") from error
            raise HypervisorError(f"{self._name}: {_line(error)}") from error
        except (OSError, ValueError) as error:
            # no file descriptor left for a port or a console, or a text that is not XML
            raise HypervisorError(f"{self._name}: {_line(error)}") from error

    # --- events

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def _on_lifecycle(self, _conn: Any, dom: Any, _event: int, _detail: int, _opaque: Any) -> None:
        # on libvirt's thread: copy the identifier, enqueue, leave
        loop, name, uuid = self._loop, dom.name(), dom.UUIDString()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._tell, name, uuid)

    def _tell(self, name: str, uuid: str) -> None:
        if self._known.is_foreign(uuid):
            return  # a busy host's other machines are no reason to tick
        for callback in self._callbacks:
            callback(name)

    # --- listing

    async def observe(self) -> tuple[Domain, ...]:
        return await self._call(self._observe)

    def _observe(self) -> tuple[Domain, ...]:
        conn = self._live()
        asked_at = self._clock()
        rows = conn.getAllDomainStats(_STATS, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        at = counters.read_at(asked_at, self._clock())
        seen: dict[str, Known] = {}
        found = []
        for dom, stats in rows:
            uuid = dom.UUIDString()
            known = self._known.get(uuid) or self._meet(dom)
            if known is None:
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
        if not self._swept and self._local_files:
            # of machines that ended while nobody ran: no event will ever tell of them
            self._consoles.sweep({domain.name for domain in found})
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
        given_up = threading.Event()
        try:
            return await self._call(lambda: self._create(spec, given_up))
        except HostUnreachable:
            given_up.set()
            raise

    def _create(self, spec: VmSpec, given_up: threading.Event) -> Identity:
        conn = self._live()
        if self._info is None:
            raise HostUnreachable(f"{self._name}: not connected")
        settings = HostSettings(
            domain_type=self._info.domain_type,
            network=self._network,
            console_log=self._consoles.prepare(spec.name) if self._local_files else "",
            relabels=self._relabels,
        )
        identity = spec.identity
        for attempt in range(1, PORT_TRIES + 1):
            if self._network == "user":
                identity = replace(identity, host_port=_free_port())
            text = domain_xml.domain_xml(replace(spec, identity=identity), settings)
            try:
                dom = conn.createXML(text, 0)
            except libvirt.libvirtError as error:
                # between our look and QEMU's bind somebody else may have taken the port
                if "host forwarding rule" in str(error) and attempt < PORT_TRIES:
                    continue
                self._consoles.remove(spec.name)
                told = error.get_error_code(), error.get_error_domain()
                if not self._embedded and verdicts.is_creation_lost(*told, bool(conn.isAlive())):
                    raise HostUnreachable(f"{self._name}: {_line(error)}") from error
                raise DomainRefused(f"{self._name} refuses {spec.name}: {_line(error)}") from error
            if given_up.is_set():
                # nobody counts it any more: left alone, it would be one more than max allows
                dom.destroyFlags(0)
                self._consoles.remove(spec.name)
                raise DomainRefused(f"{self._name}: {spec.name} came too late")
            self._known.learn(dom.UUIDString(), Known(spec.name, identity))
            return identity
        raise AssertionError("unreachable")

    async def address(self, domain: str, identity: Identity) -> str | None:
        if identity.host_port:
            return f"127.0.0.1:{identity.host_port}"
        return await self._call(lambda: self._address(domain, identity))

    def _address(self, name: str, identity: Identity) -> str | None:
        dom = self._ours(name)
        for source in _ADDRESS_SOURCES:
            try:
                interfaces = dom.interfaceAddresses(source)
            except libvirt.libvirtError:
                continue  # no lease table, or no agent yet: ask the next source
            for interface in interfaces.values():
                for address in interface["addrs"] or ():
                    ip = address["addr"]
                    # an agent may say anything: our own loopback is not a guest's address
                    loopback = ip.startswith("127.")
                    if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4 and not loopback:
                        return f"{ip}:{identity.app_port}"
        return None

    async def set_cpu_limit(self, domain: str, cores: float | None) -> None:
        await self._call(lambda: self._set_cpu_limit(domain, cores))

    def _set_cpu_limit(self, name: str, cores: float | None) -> None:
        dom = self._ours(name)
        try:
            dom.setSchedulerParametersFlags(
                counters.quota_of(cores, dom.maxVcpus()), libvirt.VIR_DOMAIN_AFFECT_LIVE
            )
        except libvirt.libvirtError as error:
            if verdicts.cannot_limit(error.get_error_code(), str(error)):
                reason = f"{self._name} cannot limit CPU: {_line(error)}"
                raise LimitUnsupported(reason) from error
            raise
        self._known.change(dom.UUIDString(), limit_cores=cores)

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
        with contextlib.suppress(NoSuchDomain):
            await self._call(lambda: self._destroy(domain))
        self._consoles.remove(domain)

    def _destroy(self, name: str) -> None:
        dom = self._ours(name)
        try:
            dom.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return
            dom.destroyFlags(0)

    async def console_tail(self, domain: str, lines: int = 20) -> str:
        if not self._local_files:
            return ""
        return await self._call(lambda: self._consoles.tail(domain, lines))


def _limit_in_force(dom: Any) -> float | None:
    """The CPU limit a domain already has, in cores: an adopted one may be limited."""
    try:
        parameters = dom.schedulerParametersFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
        return counters.limit_of(parameters, dom.maxVcpus())
    except libvirt.libvirtError:
        return None


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _line(error: Any) -> str:
    """libvirt's message as one line without its QEMU command tail."""
    return " ".join(str(error).split())[:400]
