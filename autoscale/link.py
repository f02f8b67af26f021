"""One connection to a hypervisor that may be lost and comes back: who opens it, when, and how long
a call over it is waited for.

`LibvirtHypervisor` builds on it. It must not know libvirt: opening, letting go and what an error
means are the subclass's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from autoscale.host import HostInfo, HostUnreachable, HypervisorError
from autoscale.threads import NoAnswer, TimedCalls

T = TypeVar("T")

THREADS = 4
"""Per host. A call that hangs costs one; with all of them hanging the host is unreachable."""

RECONNECT_S = 2.0


class Link(ABC):
    """Its coroutines raise HypervisorError and nothing else; other methods block, on threads."""

    def __init__(
        self,
        name: str,
        uri: str,
        call_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._uri = uri
        self._clock = clock
        self._calls = TimedCalls(THREADS, f"libvirt-{name}", call_timeout)
        self._closed = False
        self._connecting = threading.Lock()
        self._conn: Any = None
        self._info: HostInfo | None = None
        self._tried_at, self._trouble = -RECONNECT_S, ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def info(self) -> HostInfo | None:
        return self._info

    @abstractmethod
    def _opened_anew(self) -> tuple[Any, HostInfo]:
        """A connection, and what is there."""

    @abstractmethod
    def _let_go(self, conn: Any) -> None:
        """Close it, whatever became of it."""

    @abstractmethod
    def _translated(self, work: Callable[[], T]) -> T:
        """What it returns; what it raises, as a HypervisorError."""

    # --- connecting

    async def close(self) -> None:
        self._closed = True  # first: whoever connects meanwhile sees it, and lets go again
        conn, self._conn, self._info = self._conn, None, None
        if conn is not None:
            with contextlib.suppress(HypervisorError):
                await self._run(lambda: self._let_go(conn))
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
            self._let_go(dead)
        conn, info = self._opened_anew()
        self._info, self._conn = info, conn
        if self._closed:
            self._info, self._conn = None, None
            self._let_go(conn)
            raise HostUnreachable(f"{self._name}: the connection is closed")
        return conn

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

    # --- calling

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

    async def _while_waited_for(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """`_call` it; what it is given says whether somebody still waits for what comes of it."""
        given_up = threading.Event()
        try:
            return await self._call(lambda: work(lambda: not given_up.is_set()))
        except HostUnreachable:
            given_up.set()
            raise
