"""The public addresses: opening them, changing them, closing them without losing a request.

Owns the listening sockets and the order of stopping. Knows requests only as journeys to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lb import sockets
from lb.acceptor import Acceptor
from lb.access_log import AccessLog
from lb.address import split_address
from lb.client_server import ClientServer
from lb.config import ListenConfig, ProxyConfig
from lb.proxy import Proxy
from lb.request_ids import request_ids
from lb.request_metrics import RequestMetrics
from lb.routes import Routes
from lb.site import Site
from lb.tls import ServerTls

log = logging.getLogger(__name__)

# After the deadline the cancelled journeys only have to unwind.
_UNWIND_S = 2.0

# Turns of the loop from the last byte of a request to its journey.
_TO_BEGIN = 5


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a stop went."""

    finished: int
    """Requests that were running when it began, and ended by themselves."""
    cut: tuple[str, ...]
    """Those the deadline ended, such as `GET /slow → web-1`."""


class _Accepting(Protocol):
    def close(self) -> None: ...


@dataclass(slots=True)
class _Listener:
    """One entry of `proxy.listen`, open."""

    config: ListenConfig
    encrypted: bool
    bound: list[socket.socket]
    """Ours to keep: what accepts has duplicates, so that another can take over in place."""
    accepting: list[_Accepting]
    server: ClientServer

    def close(self) -> None:
        for one in self.accepting:
            one.close()
        sockets.close(self.bound)
        self.bound.clear()

    def cut(self) -> None:
        """Those too that are neither connections yet nor waiting to be accepted."""
        for one in self.accepting:
            if isinstance(one, Acceptor):
                one.cut()


class ProxyServer:
    """The proxy on its addresses. `addresses` is what clients can connect to, once started.

    `home` keeps a self-signed certificate; `counters` takes the requests that belong to no service.
    `bind` gives the listening sockets of an entry of `listen`, or raises ListenError.
    """

    def __init__(
        self,
        config: ProxyConfig,
        sites: Mapping[str, Site],
        routes: Routes,
        *,
        home: Path | None = None,
        counters: RequestMetrics | None = None,
        bind: Callable[[str], list[socket.socket]] = sockets.bind,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._bind_at = bind
        self._home = home or Path()
        self.proxy = Proxy(
            config,
            sites,
            routes,
            counters or RequestMetrics(""),
            clock=clock,
            request_ids=request_ids(secrets.token_hex(4)),
            access_log=AccessLog(config.access_log, random.Random()),
        )
        self._tls: ServerTls | None = None
        self._listeners: dict[str, _Listener] = {}
        self._minded: list[_Accepting] = []
        self._started = False

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(
            sockets.name_of(one) for open_ in self._listeners.values() for one in open_.bound
        )

    @property
    def bound(self) -> dict[str, list[socket.socket]]:
        """The sockets that stand for each entry of `listen`, by its address. Ours to close."""
        return {address: list(open_.bound) for address, open_ in self._listeners.items()}

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(
            f"{'https' if open_.encrypted else 'http'}://{sockets.name_of(one)}"
            for open_ in self._listeners.values()
            for one in open_.bound
        )

    # ── opening ──────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Listen on every address. Raises ListenError or TlsError, and then listens on none."""
        config = self._config
        self._tls = self._load_tls(config)
        opened: dict[str, _Listener] = {}
        try:
            for listen in config.listen:
                opened[listen.address] = self._bind(listen, config)
            for open_ in opened.values():
                await self._accept(open_)
        except BaseException:
            for open_ in opened.values():
                open_.close()
            raise
        self._listeners = opened
        self._started = True
        self._settle()
        log.info("listening on %s", ", ".join(self.urls))

    async def reconfigure(
        self, config: ProxyConfig, sites: Mapping[str, Site], routes: Routes
    ) -> None:
        """Take over another configuration: connections stay, new ones go by it.

        Raises ListenError, TlsError or AccessLogError, and then nothing has changed.
        """
        tls = self._load_tls(config)
        ready = tls.load(config.tls, _names(config)) if tls is not None else ()
        opened: dict[str, _Listener] = {}
        try:
            for listen in config.listen:
                old = self._listeners.get(listen.address)
                if old is None:
                    opened[listen.address] = self._bind(listen, config)
                elif (old.config, old.encrypted) == (listen, config.speaks_tls(listen)):
                    opened[listen.address] = old
                else:
                    opened[listen.address] = self._bind(
                        listen, config, [one.dup() for one in old.bound]
                    )
            # last of what can fail: it opens its file anew, also because that may be rotated
            self.proxy.access_log.configure(config.access_log)
        except BaseException:
            for address, open_ in opened.items():
                if open_ is not self._listeners.get(address):
                    open_.close()
            raise
        if tls is not None:
            tls.use(ready)
        before, self._listeners = self._listeners, opened
        self._tls = tls
        self._config = config
        self.proxy.configure(config, sites, routes)
        for open_ in opened.values():
            if not open_.accepting:
                await self._accept(open_)
        for address, open_ in before.items():
            if opened.get(address) is not open_:
                open_.close()
        self._settle()

    def _load_tls(self, config: ProxyConfig) -> ServerTls | None:
        """What encrypted listeners use; the present one where there is one."""
        if not any(config.speaks_tls(listen) for listen in config.listen):
            return None
        if self._tls is not None:
            return self._tls
        return ServerTls(config.tls, self._home, _names(config))

    def _bind(
        self,
        listen: ListenConfig,
        config: ProxyConfig,
        bound: list[socket.socket] | None = None,
    ) -> _Listener:
        encrypted = config.speaks_tls(listen)
        server = ClientServer(
            self.proxy,
            scheme=b"https" if encrypted else b"http",
            redirect_to_https=listen.redirect_to_https,
        )
        return _Listener(listen, encrypted, bound or self._bind_at(listen.address), [], server)

    async def _accept(self, open_: _Listener) -> None:
        for one in open_.bound:
            open_.accepting.append(await self._accept_on(open_, one))

    async def _accept_on(self, open_: _Listener, one: socket.socket) -> _Accepting:
        loop = asyncio.get_running_loop()
        context = self._tls.context if self._tls is not None and open_.encrypted else None
        if context is None and not open_.config.proxy_protocol:
            return await loop.create_server(
                open_.server.connection, sock=one.dup(), backlog=sockets.BACKLOG
            )
        return Acceptor(
            one.dup(),
            open_.server.connection,
            knocked=self.proxy.knocked,
            settled=self.proxy.settled,
            trust=(lambda: self.proxy.trust) if open_.config.proxy_protocol else None,
            timeout_s=lambda: self.proxy.config.timeouts.head,
            context=context,
            loop=loop,
        )

    async def mind(self, others: Mapping[str, Sequence[socket.socket]]) -> Callable[[], None]:
        """Accept on another worker's sockets too, by the address each stands for: nobody does there
        just now. Returns what ends it; connections that came so far stay."""
        minded: list[_Accepting] = []
        for address, theirs in others.items():
            if self._started and (open_ := self._listeners.get(address)) is not None:
                minded += [await self._accept_on(open_, one) for one in theirs]
        self._minded += minded

        def end() -> None:
            for one in minded:
                if one in self._minded:
                    self._minded.remove(one)
                    one.close()

        return end

    def _settle(self) -> None:
        """Tell the proxy what depends on the ports as they are bound."""
        ports = [
            one.getsockname()[1]
            for open_ in self._listeners.values()
            if open_.encrypted
            for one in open_.bound
        ]
        self.proxy.https_port = ports[0] if ports else None

    # ── stopping ─────────────────────────────────────────────────────────────────────────────

    async def stop(self, grace_s: float | None = None) -> Stopped:
        """Accept nothing more, let running requests end for `grace_s` seconds (default: the
        configured grace), cut the rest, close everything. Says what it cut."""
        if not self._started:
            return Stopped(0, ())
        self._started = False
        proxy = self.proxy
        proxy.stopping = True
        for lane in tuple(proxy.overdue.running):
            lane.hand_over()
        for open_ in self._listeners.values():
            open_.close()
            open_.cut()
        for one in self._minded:
            one.close()
            if isinstance(one, Acceptor):
                one.cut()
        self._minded.clear()
        for connection in tuple(proxy.connections):
            if connection.running:
                connection.close()
            else:
                # An idle client would otherwise send into a connection that no longer reads.
                connection.force_close()
        for _ in range(_TO_BEGIN):
            await asyncio.sleep(0)
        running = len(proxy.running)
        cut = await self._wait(self._config.shutdown_grace if grace_s is None else grace_s)
        for open_ in self._listeners.values():
            await open_.server.shutdown(_UNWIND_S)
        self._listeners = {}
        for site in proxy.sites.values():
            site.close()
        proxy.overdue.close()
        proxy.wheel.close()
        await asyncio.to_thread(proxy.access_log.close)
        for line in cut:
            log.warning("cut at shutdown: %s", line)
        return Stopped(running - len(cut), cut)

    def cut(self, site: Site) -> None:
        """End what still runs on a service that has left."""
        for connection in tuple(self.proxy.connections):
            connection.cut(site)
        for journey in tuple(self.proxy.running):
            if journey.site is site:
                log.warning("cut with service %s: %r", site.name, journey)
                journey.cut()

    def hurry(self) -> None:
        """Cut what is running now: the grace is over."""
        self.proxy.idle.set()

    async def _wait(self, grace_s: float) -> tuple[str, ...]:
        proxy = self.proxy
        if proxy.running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(proxy.idle.wait(), grace_s)
        if not proxy.running:
            return ()
        proxy.idle.clear()
        proxy.cutting = True
        cut = tuple(repr(journey) for journey in proxy.running)
        for journey in tuple(proxy.running):
            journey.cut()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(proxy.idle.wait(), _UNWIND_S)
        return cut


def _names(config: ProxyConfig) -> list[str]:
    """What clients may connect to."""
    return [split_address(listen.address)[0] for listen in config.listen]
