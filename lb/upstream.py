"""Connections to the backends of one service: opened, kept between requests, closed in time.

Owns which connection carries an exchange; what is said on it is `backend_exchange`'s. Picks no
backend and decides no retry. Every error of a connect is translated here, once.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from typing import Final

from lb.address import split_address
from lb.backend import Backend
from lb.backend_connection import BackendConnection
from lb.backend_exchange import BackendExchange, Interim
from lb.config import LimitsConfig, ServiceConfig, TimeoutsConfig
from lb.dial import dial, encrypt
from lb.errors import BackendTlsError, ConnectFailedError, ConnectTimeoutError
from lb.exchange import Onward
from lb.request_body import RequestBody
from lb.retry import IDEMPOTENT
from lb.tls import client_context, server_hostname
from lb.wire.head import AnswerHead

# Shorter than the idle timeout of every common server (Apache's 5 s is the shortest): a connection
# is dropped by us before the backend may close it under a request.
IDLE_S: float = 4.0

# A request that must not be sent twice goes only over a connection that was in use a moment ago:
# were it to fail unheard, nobody could tell a stale connection from a crashed application.
IDLE_UNSAFE_S: float = 1.0

# QEMU listens on a forwarded port with a backlog of 1, so of several connections opened at once the
# kernel drops all but two. Their first packets are sent again after 1, 2, 4 … 32 s: of 64 at once,
# up to 49 had no answer after 20 s. On loopback a connection stands within microseconds, or its
# first packet was dropped: knocking anew is quicker than waiting for the kernel to.
KNOCK_S: Final = 0.05
KNOCK_PAUSE_S: Final = 0.02
DOOR_S: Final = 10.0


class _Held:
    """The connections to one backend."""

    __slots__ = ("door", "kept", "running")

    def __init__(self) -> None:
        self.kept: list[BackendConnection] = []
        """Those that nothing runs on, the one used last at the end."""
        self.running: dict[BackendConnection, bool] = {}
        """Those that carry an exchange, and whether it could be begun anew elsewhere: nothing of an
        answer has come, and doing it twice is harmless."""
        self.door = asyncio.Semaphore(1)
        """Who knocks at a guest."""


class Upstream:
    """`limits` are those of answers."""

    def __init__(self, limits: LimitsConfig, service: ServiceConfig) -> None:
        self.limits = limits
        self._service = service
        self._tls = client_context(service.tls)
        self._rules = object()
        """Another one after each change of how connections are opened."""
        self._held: dict[Backend, _Held] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def configure(self, limits: LimitsConfig, service: ServiceConfig) -> None:
        """Take over a new configuration: the next exchange goes by it. Raises TlsError, and then
        nothing has changed."""
        # anew each time: a renewed certificate keeps its path
        self._tls = client_context(service.tls)
        changed = (service.tls, service.send_proxy_protocol) != (
            self._service.tls,
            self._service.send_proxy_protocol,
        )
        self.limits, self._service = limits, service
        if changed:
            # made under the old rules, as are those in use
            self._rules = object()
            self._drop_all()

    # ── one attempt ──────────────────────────────────────────────────────────────────────────

    async def send(
        self,
        backend: Backend,
        onward: Onward,
        body: RequestBody | None,
        interim: Interim,
        timeouts: TimeoutsConfig,
        *,
        fresh: bool = False,
    ) -> tuple[BackendExchange, AnswerHead]:
        """One attempt, up to the answer's head; on a new connection where it must be `fresh`.
        Raises a RequestError. `finish` the exchange."""
        loop = asyncio.get_running_loop()
        repeatable = onward.method in IDEMPOTENT and (body is None or body.here)
        connection = None
        if not fresh:
            connection = self.idle(backend, loop.time(), repeatable=repeatable)
        if connection is None:
            connection = await self._connect(backend, onward, timeouts)
            self._of(backend).running[connection] = repeatable
        exchange = BackendExchange(connection, onward, body, timeouts, self.limits, loop)
        exchange.send()
        return exchange, await self._head(backend, exchange, interim)

    async def resume(
        self,
        backend: Backend,
        connection: BackendConnection,
        onward: Onward,
        body: RequestBody | None,
        interim: Interim,
        timeouts: TimeoutsConfig,
        sent_at: float,
    ) -> tuple[BackendExchange, AnswerHead]:
        """The same for a request that somebody else sent whole, on a connection that was `idle`."""
        loop = asyncio.get_running_loop()
        exchange = BackendExchange(connection, onward, body, timeouts, self.limits, loop)
        exchange.sent(sent_at)
        return exchange, await self._head(backend, exchange, interim)

    async def _head(
        self, backend: Backend, exchange: BackendExchange, interim: Interim
    ) -> AnswerHead:
        try:
            head = await exchange.head(interim)
        except BaseException:
            exchange.stop_sending()
            self.cut(backend, exchange.connection)
            raise
        self._held[backend].running[exchange.connection] = False
        return head

    def finish(self, backend: Backend, exchange: BackendExchange) -> None:
        """Keep the connection where it can serve another request; else cut it."""
        exchange.stop_sending()
        if exchange.reusable:
            self.keep(backend, exchange.connection, asyncio.get_running_loop().time())
        else:
            self.cut(backend, exchange.connection)

    # ── connections by themselves, for who exchanges on them without `send` ──────────────────

    def idle(self, backend: Backend, now: float, *, repeatable: bool) -> BackendConnection | None:
        """A kept connection for one exchange, the one used last; None where none is fresh enough.
        `repeatable`: nothing is lost where it is cut. `keep` or `cut` it."""
        held = self._held.get(backend)
        if held is None:
            return None
        kept, oldest = held.kept, now - (IDLE_S if repeatable else IDLE_UNSAFE_S)
        while kept and kept[-1].idle_since > oldest:
            connection = kept.pop()
            connection.resting = False
            if connection.clean:
                held.running[connection] = repeatable
                return connection
            connection.close()
        return None

    def keep(self, backend: Backend, connection: BackendConnection, now: float) -> None:
        """Its exchange is over, and nothing of it is left on the connection."""
        if connection.rules is not self._rules or not backend.probed:
            self.cut(backend, connection)
            return
        held = self._held[backend]
        del held.running[connection]
        held.kept.append(connection)
        connection.rest(now)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(IDLE_S, self._sweep, loop)

    def cut(self, backend: Backend, connection: BackendConnection) -> None:
        """Its exchange is over, and so is the connection."""
        connection.close()
        held = self._held[backend]
        del held.running[connection]
        if not backend.probed:
            self._drop(backend, held)

    def give_up(self, name: str, *, all_of_it: bool) -> None:
        """A backend of this name answers nobody any more. Its exchanges end as if it had reset
        them, so that a retry can follow at once instead of after a timeout: all of them, or only
        those that lose nothing by it. Whoever is in the middle of an answer may yet get the rest.
        """
        for backend, held in self._held.items():
            if backend.name == name and not backend.available:
                for connection, repeatable in held.running.items():
                    if repeatable or all_of_it:
                        connection.close()

    # ── connecting ───────────────────────────────────────────────────────────────────────────

    async def _connect(
        self, backend: Backend, onward: Onward, timeouts: TimeoutsConfig
    ) -> BackendConnection:
        rules = self._rules
        try:
            async with asyncio.timeout(timeouts.connect or None):
                if backend.vm is not None and _is_loopback(backend):
                    connection = await self._knock(backend)
                else:
                    connection = await dial(backend.address)
                # what is introduced by a PROXY header serves that one client
                connection.rules = None if onward.proxy_header else rules
                connection.on_idle_news = partial(self._forget, backend, connection)
                if onward.proxy_header:
                    connection.write(onward.proxy_header)
                if self._tls is not None:
                    name = server_hostname(self._service.tls, backend.address)
                    await encrypt(connection, self._tls, name)
                return connection
        except TimeoutError:
            raise ConnectTimeoutError("no connection in time") from None
        except ssl.SSLError as error:
            why = (
                getattr(error, "verify_message", "")
                or getattr(error, "reason", "")
                or error.strerror
            )
            raise BackendTlsError(f"no TLS with the backend: {why}") from error
        except OSError as error:
            raise ConnectFailedError(f"no connection: {error.strerror or error}") from error

    async def _knock(self, backend: Backend) -> BackendConnection:
        async with asyncio.timeout(DOOR_S), self._of(backend).door:
            while True:
                try:
                    async with asyncio.timeout(KNOCK_S):
                        return await dial(backend.address)
                except TimeoutError:
                    await asyncio.sleep(KNOCK_PAUSE_S)

    # ── between requests ─────────────────────────────────────────────────────────────────────

    def _forget(self, backend: Backend, connection: BackendConnection) -> None:
        """Something came on an idle connection: its end, or bytes that nobody asked for, which
        would be taken for the answer to the next request, and so reach another client."""
        held = self._held.get(backend)
        if held is not None and connection in held.kept:
            held.kept.remove(connection)
        connection.close()

    def _of(self, backend: Backend) -> _Held:
        held = self._held.get(backend)
        if held is None:
            held = self._held[backend] = _Held()
        return held

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = None
        oldest, are_kept = loop.time() - IDLE_S, False
        for held in self._held.values():
            kept = held.kept
            while kept and kept[0].idle_since <= oldest:
                kept.pop(0).close()
            are_kept = are_kept or bool(kept)
        if are_kept:
            self._sweeper = loop.call_later(IDLE_S / 4, self._sweep, loop)

    def settle(self) -> None:
        """Close the idle connections of every backend that gets no new request."""
        for backend, held in list(self._held.items()):
            if not backend.probed:
                self._drop(backend, held)

    def _drop(self, backend: Backend, held: _Held) -> None:
        """Its idle ones; all that is known of it, once nothing runs there."""
        for connection in held.kept:
            connection.close()
        held.kept.clear()
        if not held.running:
            self._held.pop(backend, None)

    def close(self) -> None:
        """Close every idle connection; nothing runs any more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._drop_all()

    def _drop_all(self) -> None:
        for backend, held in list(self._held.items()):
            self._drop(backend, held)


def _is_loopback(backend: Backend) -> bool:
    host, _ = split_address(backend.address)
    return host == "::1" or host.startswith("127.")
