"""One connection to a hypervisor that may be lost and comes back: who opens it, when, how long a
call over it is waited for, and how its calls have gone.

`LibvirtHypervisor` builds on it. It must not know libvirt: opening, letting go and what an error
means are the subclass's.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from autoscale.backoff import Reconnect
from autoscale.hold import Hold
from autoscale.holder import BEAT_S
from autoscale.host import Contact, HostHeld, HostInfo, HostUnreachable, HypervisorError
from autoscale.threads import DaemonThreads, NoAnswer, TimedCalls

T = TypeVar("T")

THREADS = 4
"""Per host. A call that hangs costs one; with all of them hanging the host is unreachable."""

ASK_AGAIN_S = 5.0
"""So often a host whose machines another process holds is asked whether it still does."""


BEAT_LOOK_S = BEAT_S / 2
"""So often it is looked whether a beat is due: the calls of a tick bring one too, but ticks may lie
further apart than a holder may be silent."""


class Outcome(StrEnum):
    """What became of a call."""

    OK = "ok"
    ERROR = "error"
    LOST = "lost"
    TIMEOUT = "timeout"


class Link(ABC):
    """Its coroutines raise HypervisorError and nothing else; other methods block, on threads.

    A connection is opened by one thread at a time, and no other waits for it. One that hangs in
    opening for longer than any call is waited for is left to itself: the next one tries anew.
    Whichever gets a connection first, that is it, and what the other may still get is let go.
    """

    def __init__(
        self,
        name: str,
        uri: str,
        call_timeout: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._uri = uri
        self._clock = clock
        self._jitter = jitter
        self._patience_s = call_timeout
        self._calls = TimedCalls(THREADS, f"libvirt-{name}", call_timeout)
        self._beating = DaemonThreads(1, f"beats-{name}")
        self._over = threading.Event()
        self._closed = False
        self._conn: Any = None
        self._info: HostInfo | None = None
        self._hold: Hold | None = None
        """Who acts there, where many processes could: asked before every call."""
        self._lock = threading.Lock()
        """Around all that follows. Nothing that could block is done inside."""
        self._turn, self._turn_since = 0, -1.0
        """Number of the attempt to connect, and since when it is under way; < 0: it is not."""
        self._retry = Reconnect()
        self._trouble: HostUnreachable | None = None
        # of the event loop's thread
        self._outcomes: Counter[Outcome] = Counter()
        self._silent_since: float | None = None
        self._beats = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def info(self) -> HostInfo | None:
        return self._info

    @property
    def contact(self) -> Contact:
        trouble, silent = self._trouble, self._silent_since
        return Contact(
            answered=self._outcomes[Outcome.OK],
            refused=self._outcomes[Outcome.ERROR],
            lost=self._outcomes[Outcome.LOST],
            timed_out=self._outcomes[Outcome.TIMEOUT],
            hanging=self._calls.hung,
            silent_s=None if silent is None else self._clock() - silent,
            holder=str(trouble) if isinstance(trouble, HostHeld) else "",
        )

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

    async def open(self) -> HostInfo:
        """Connect. Raises HostUnreachable with what to do about it."""
        if (hold := self._hold) is not None and not self._beats:
            self._beats = True
            self._beating.submit(lambda: self._beat(hold))
        return await self._call(self._opened)

    def _beat(self, hold: Hold) -> None:
        """What is not held, or is lost, is the next call's to see to."""
        while not self._over.wait(BEAT_LOOK_S):
            if hold.holds and self._conn is not None:
                with contextlib.suppress(Exception):  # told by the next call; the beats go on
                    self._translated(self._live)

    async def close(self) -> None:
        self._closed = True  # first: whoever connects meanwhile sees it, and lets go again
        self._over.set()
        self._beating.close()
        conn, self._conn, self._info = self._conn, None, None
        if conn is not None:
            with contextlib.suppress(HypervisorError):
                await self._run(lambda: self._end(conn))
        self._calls.close()

    def _end(self, conn: Any) -> None:
        try:
            if self._hold is not None:
                self._hold.release(conn)
        finally:
            self._let_go(conn)

    def _opened(self) -> HostInfo:
        """Connect at once, however lately that failed."""
        with self._lock:
            self._retry = Reconnect()
        self._connected()
        if self._info is None:
            raise self._is_closed()
        return self._info

    def _alive(self) -> Any:
        """The connection, None where it is lost."""
        conn = self._conn
        return conn if conn is not None and conn.isAlive() else None

    def _connected(self) -> Any:
        """The connection, opened again where it was lost, as often as `Reconnect` allows."""
        with self._lock:
            if conn := self._alive():
                return conn
            turn, dead = self._begin()
        return self._connect(turn, dead)

    def _live(self) -> Any:
        """The connection, where we are the ones who act there."""
        conn = self._connected()
        try:
            if self._hold is not None and self._info is not None:
                self._hold.keep(conn, self._info.domain_type)
        except HostHeld as error:
            self._give_up(conn, error)
            raise
        return conn

    def _begin(self) -> tuple[int, Any]:
        """Take a turn at connecting; the dead connection is the caller's to let go."""
        now = self._clock()
        if self._closed:
            raise self._is_closed()
        if self._turn_since >= 0 and now - self._turn_since < self._patience_s:
            raise HostUnreachable(f"{self._name}: connecting to {self._uri}")
        if not self._retry.allows(now):
            kind = HostHeld if isinstance(self._trouble, HostHeld) else HostUnreachable
            raise kind(str(self._trouble))
        self._turn, self._turn_since = self._turn + 1, now
        dead, self._conn = self._conn, None
        return self._turn, dead

    def _connect(self, turn: int, dead: Any) -> Any:
        if dead is not None:
            self._let_go(dead)
        try:
            conn, info = self._translated(self._opened_anew)
        except HypervisorError as error:
            with self._lock:
                if turn == self._turn:
                    self._turn_since = -1.0
                    self._failed(error)
            raise
        with self._lock:
            if turn == self._turn:
                self._turn_since = -1.0
            if not self._closed and (faster := self._alive()) is None:
                self._conn, self._info = conn, info
                self._retry, self._trouble = Reconnect(), None
                return conn
        self._let_go(conn)
        if self._closed:
            raise self._is_closed()
        return faster

    def _give_up(self, conn: Any, error: HostHeld) -> None:
        """This connection is not ours to act over any more."""
        with self._lock:
            if self._conn is not conn:
                return
            self._conn = None
            self._failed(error)
        self._let_go(conn)

    def _failed(self, error: HypervisorError) -> None:
        now, is_held = self._clock(), isinstance(error, HostHeld)
        # the words alone: the error's frames hold on to the connection, which would not be closed
        self._trouble = HostHeld(str(error)) if is_held else HostUnreachable(str(error))
        if is_held:
            self._retry = Reconnect(0, now + ASK_AGAIN_S)
        else:
            self._retry = self._retry.failed(now, self._jitter())

    def _is_closed(self) -> HostUnreachable:
        return HostUnreachable(f"{self._name}: the connection is closed")

    # --- calling

    async def _call(self, work: Callable[[], T]) -> T:
        """Run a blocking call on our threads, within the time limit, errors translated."""
        if self._closed:
            raise self._is_closed()
        return await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            result = await self._calls.call(lambda: self._translated(work))
        except NoAnswer as error:
            self._count(Outcome.TIMEOUT)
            raise HostUnreachable(f"{self._name}: {error}") from error
        except HypervisorError as error:
            lost = isinstance(error, HostUnreachable)
            self._count(Outcome.LOST if lost else Outcome.ERROR)
            raise
        self._count(Outcome.OK)
        return result

    def _count(self, outcome: Outcome) -> None:
        self._outcomes[outcome] += 1
        if outcome in (Outcome.OK, Outcome.ERROR):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock()

    async def _while_waited_for(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """`_call` it; what it is given says whether somebody still waits for what comes of it."""
        given_up = threading.Event()
        try:
            return await self._call(lambda: work(lambda: not given_up.is_set()))
        except HostUnreachable:
            given_up.set()
            raise
