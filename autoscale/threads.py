"""Daemon threads for calls that block, and may never return.

Owns those threads, and how long is waited for a call. Not `ThreadPoolExecutor`: Python waits for
its threads when the process ends, so one hanging libvirt call would keep `lbctl up` from ever
stopping.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads:
    """At most `count` threads, started as they are needed. After `close` nothing is taken on."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._work = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Call from one thread only. Raises RuntimeError once closed."""
        if self._closed:
            raise RuntimeError(f"the threads {self._name} are closed")
        future: Future[T] = Future()
        self._work.put((future, work))
        if len(self._threads) < self._count:
            thread = threading.Thread(
                target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Threads end after what they are at; waits for none."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            future, work = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is the caller's, who awaits it
                future.set_exception(error)
            else:
                future.set_result(result)
            del item, future, work


class NoAnswer(Exception):
    """A call did not return in time, or cannot be made at all; the message says which."""


class TimedCalls:
    """Blocking calls from the event loop, each within a time limit.

    A call that hangs costs one thread; with all of them hanging the next is refused at once.
    """

    def __init__(self, count: int, name: str, timeout_s: float) -> None:
        self._count = count
        self._timeout = timeout_s
        self._threads = DaemonThreads(count, name)
        self.hanging: list[Future[Any]] = []

    @property
    def hung(self) -> int:
        """How many of the calls that nobody waits for any more have still not returned."""
        self.hanging = [future for future in self.hanging if not future.done()]
        return len(self.hanging)

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises NoAnswer when it takes too long."""
        if (hung := self.hung) >= self._count:
            raise NoAnswer(f"{hung} libvirt calls hang")
        future = self._threads.submit(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except TimeoutError as error:
            if not future.done():
                self.hanging.append(future)
            raise NoAnswer(f"no answer from libvirt in {self._timeout:g} s") from error

    def close(self) -> None:
        self._threads.close()


class OneLoop:
    """`turn`, over and over on one daemon thread; `prepare` once before. Started once."""

    def __init__(
        self, name: str, prepare: Callable[[], object], turn: Callable[[], object]
    ) -> None:
        self._name = name
        self._prepare = prepare
        self._turn = turn
        self._lock = threading.Lock()
        self._runs = False

    def start(self) -> None:
        with self._lock:
            if not self._runs:
                self._prepare()
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                self._runs = True

    def _serve(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:  # noqa: BLE001 - nobody else would go on turning
                time.sleep(0.1)
