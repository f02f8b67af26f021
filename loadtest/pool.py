"""The keep-alive connections to one server: reused last-in first-out, opened as needed.

Mutable state: `_idle` (free, open), `_open` (all that exist), `_waiting` (requests for which no
connection was free), `opening` (attempts under way). For every waiting request there is an attempt
under way, so none can wait for ever; a request is served by whichever comes first, its new
connection or another that became free. One exception: a tester that is late itself has a burst to
catch up with, and opening takes it 100 µs apiece; more attempts than `MOST_OPENING` would make it
later, and that more attempts, until nothing else is done (seen: 14,000 connections at 20,000/s
after 30 ms without the core). Then an attempt that ends makes the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Protocol

from loadtest.connect import Address
from loadtest.connection import Connection, Exchange, error_kind
from loadtest.tasks import Tasks

# At 100 µs each these are ten milliseconds' work: what a late tester may still take on.
MOST_OPENING = 100


class Listener(Protocol):
    """Who learns how each exchange fares: at most one `sent`, then exactly one of the others.

    After `give_up` it hears nothing of that exchange.
    """

    def sent(self, exchange: Exchange) -> None:
        """Its bytes went to a socket."""

    def answered(self, exchange: Exchange, status: int) -> None:
        """A complete answer, whatever its status."""

    def failed(self, exchange: Exchange, kind: str) -> None:
        """No complete answer."""


class ConnectionPool:
    """Sends exchanges over as many connections as that takes. Decides synchronously."""

    def __init__(
        self,
        address: Address,
        listener: Listener,
        *,
        clock: Callable[[], float],
        connect_timeout: float,
        late: Callable[[], bool] = lambda: False,
    ) -> None:
        """`late`: is the tester behind its own schedule just now?"""
        self._address = address
        self._tls = None if address.server_name is None else ssl.create_default_context()
        self._listener = listener
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._late = late
        self._tasks = Tasks()
        self._idle: dict[Connection, None] = {}  # an ordered set: popitem() takes the newest
        self._open: set[Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._bytes_of_closed = 0
        self._closing = False
        self.opening = 0
        self.opened = 0
        self.reconnects = 0

    def __repr__(self) -> str:
        return (
            f"<ConnectionPool {self.active} active, {self.idle} idle, {self.opening} opening,"
            f" {len(self._waiting)} waiting>"
        )

    @property
    def idle(self) -> int:
        """Connections that are open and free."""
        return len(self._idle)

    @property
    def active(self) -> int:
        """Connections with a request on them."""
        return len(self._open) - len(self._idle)

    @property
    def bytes_received(self) -> int:
        """Over all connections, heads included."""
        return self._bytes_of_closed + sum(c.bytes_received for c in self._open)

    def send(self, exchange: Exchange) -> None:
        """Sends now on a free connection, else as soon as there is one."""
        if self._idle:
            self._start(self._idle.popitem()[0], exchange)
        else:
            self._waiting.append(exchange)
            if self.opening < MOST_OPENING or not self._late():
                self._open_one(None)

    def give_up(self, exchange: Exchange) -> None:
        """Forgets it, and closes the connection on which its answer could still come."""
        exchange.done = True
        if exchange.connection is not None:
            exchange.connection.abort()
        # They end in the order in which they came: one that timed out stands at the front. Left
        # there, before a server that accepts nobody, they would pile up and be owed connections.
        while self._waiting and self._waiting[0].done:
            self._waiting.popleft()

    async def close(self) -> None:
        """Ends every connection and attempt; returns when their sockets are closed."""
        self._closing = True
        await self._tasks.close()
        for connection in list(self._open):
            connection.abort()
        # An aborted transport reports its end in one of the loop's next rounds.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self._open:  # noqa: ASYNC110 (ends within a round or two)
                    await asyncio.sleep(0)

    # Owner of the connections

    def answered(self, connection: Connection, exchange: Exchange, status: int) -> None:
        exchange.connection = None
        exchange.done = True
        if connection.reusable:
            self._put_to_work(connection)
        self._listener.answered(exchange, status)

    def broken(
        self, connection: Connection, exchange: Exchange, kind: str, *, untouched: bool
    ) -> None:
        exchange.connection = None
        # The server closed an idle connection just as we used it: not an error of either side.
        may_repeat = exchange.request.idempotent and not exchange.retried
        if untouched and may_repeat and not self._closing:
            exchange.retried = True
            self.reconnects += 1
            self._open_one(exchange)
        else:
            self._fail(exchange, kind)

    def gone(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._open.discard(connection)
        self._bytes_of_closed += connection.bytes_received

    def _start(self, connection: Connection, exchange: Exchange) -> None:
        connection.send(exchange)
        if not exchange.retried:
            self._listener.sent(exchange)

    def _put_to_work(self, connection: Connection) -> None:
        waiting = self._next_waiting()
        if waiting is None:
            self._idle[connection] = None
        else:
            self._start(connection, waiting)

    def _next_waiting(self) -> Exchange | None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.done:
                return exchange
        return None

    def _open_one(self, dedicated: Exchange | None) -> None:
        self.opening += 1
        self._tasks.spawn(self._connect(dedicated), "loadtest connect")

    def _open_owed(self) -> None:
        """An attempt ended: the next, if there are fewer than requests that wait for one."""
        if not self._closing and self.opening < min(len(self._waiting), MOST_OPENING):
            self._open_one(None)

    async def _connect(self, dedicated: Exchange | None) -> None:
        try:
            await self._attempt(dedicated)
        finally:
            self._open_owed()

    async def _attempt(self, dedicated: Exchange | None) -> None:
        """Opens a connection; `dedicated` is a request that must have a fresh one."""
        connection = Connection(self, self._clock)
        address = self._address
        error: str | None = None
        try:
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=self._tls,
                    server_hostname=address.server_name,
                )
        except TimeoutError:
            # The request that asked for it is as old, and timed out by its owner. Those that wait
            # now came later and have attempts of their own.
            return
        except OSError as failed:  # ssl.SSLError is one as well
            error = error_kind(failed)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self.opening -= 1
        if error is None:
            self.opened += 1
            if connection.connected:
                self._open.add(connection)
            else:  # accepted and closed again before this task had its turn
                error = "closed"
        wanted = dedicated
        if wanted is None or wanted.done:
            wanted = self._next_waiting()
        if error is not None:
            if wanted is not None:
                self._fail(wanted, error)
        elif wanted is not None:
            self._start(connection, wanted)
        else:
            self._idle[connection] = None

    def _fail(self, exchange: Exchange, kind: str) -> None:
        if not exchange.done:
            exchange.done = True
            self._listener.failed(exchange, kind)
