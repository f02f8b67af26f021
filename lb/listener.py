"""The public addresses: opening them, and closing them without losing a request.

Owns the listening sockets and the order of stopping. Knows requests only as journeys to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass

from aiohttp import web

from lb.address import cannot_listen, split_address
from lb.config import ProxyConfig, QueueConfig
from lb.errors import ListenError
from lb.exchange import RequestIds
from lb.malformed import ClientServer
from lb.metrics import RequestMetrics
from lb.pool import Pool
from lb.proxy import Proxy

log = logging.getLogger(__name__)

_BACKLOG = 1024
# After the deadline the cancelled journeys only have to unwind.
_UNWIND_S = 2.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a stop went."""

    finished: int
    """Requests that were running when it began, and ended by themselves."""
    cut: tuple[str, ...]
    """Those the deadline ended, such as `GET /slow → web-1`."""


class ProxyServer:
    """The proxy on its addresses. `addresses` is what clients can connect to, once started."""

    def __init__(
        self,
        config: ProxyConfig,
        pool: Pool,
        counters: RequestMetrics,
        queue: QueueConfig | None = None,
    ) -> None:
        self._config = config
        identifiers = RequestIds(secrets.token_hex(4))
        self._proxy = Proxy(config, pool, counters, identifiers, queue or QueueConfig())
        self._http: web.Server | None = None
        self._listeners: list[asyncio.Server] = []
        self.addresses: tuple[str, ...] = ()

    async def start(self) -> None:
        """Listen on every address. Raises ListenError, and then listens on none."""
        self._http = http = ClientServer(
            self._proxy,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._config.timeouts.idle,
            lingering_time=2.0,
        )
        try:
            for address in self._config.listen:
                self._listeners.append(await _listen(http, address))
        except ListenError:
            self._close_listeners()
            raise
        self.addresses = tuple(
            _address(socket.getsockname())
            for listener in self._listeners
            for socket in listener.sockets
        )
        log.info("listening on %s", ", ".join(self.addresses))

    async def stop(self, grace_s: float | None = None) -> Stopped:
        """Accept nothing more, let running requests end for `grace_s` seconds (default: the
        configured grace), cut the rest, close everything. Says what it cut."""
        if self._http is None:
            return Stopped(0, ())
        proxy = self._proxy
        proxy.stopping = True
        self._close_listeners()
        running = len(proxy.running)
        busy = {journey.connection for journey in proxy.running}
        for connection in self._http.connections:
            if connection in busy:
                connection.close()
            else:
                # An idle client would otherwise send into a connection that no longer reads.
                connection.force_close()
        cut = await self._wait(self._config.shutdown_grace if grace_s is None else grace_s)
        await self._http.shutdown(_UNWIND_S)
        await proxy.close()
        self._http = None
        for line in cut:
            log.warning("cut at shutdown: %s", line)
        return Stopped(running - len(cut), cut)

    async def _wait(self, grace_s: float) -> tuple[str, ...]:
        proxy = self._proxy
        if proxy.running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(proxy.idle.wait(), grace_s)
        if not proxy.running:
            return ()
        proxy.cutting = True
        cut = tuple(repr(journey) for journey in proxy.running)
        for journey in tuple(proxy.running):
            journey.cut()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(proxy.idle.wait(), _UNWIND_S)
        return cut

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


async def _listen(http: web.Server, address: str) -> asyncio.Server:
    host, port = split_address(address)
    try:
        return await asyncio.get_running_loop().create_server(
            http, host, port, backlog=_BACKLOG, reuse_address=True
        )
    except (OSError, OverflowError) as error:
        raise cannot_listen(address, error, "proxy.listen") from error


def _address(name: tuple[str, int]) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
