"""A few daemon threads for calls that block, and may never return.

Owns those threads. Not `ThreadPoolExecutor`: Python waits for its threads when the process ends, so
one hanging libvirt call would keep `lbctl up` from ever stopping.
"""

from __future__ import annotations

import queue
import threading
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
