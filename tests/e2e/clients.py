"""Clients that ask the same thing over and over, each over a connection of its own for every
request, and remember when each was asked and what came of it.

For tests that kill the proxy itself: what failed while it was gone is told from what failed else.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

PAUSE_S = 0.1
"""Between two requests of one: a guest that boots beside them needs cores too."""
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; times are monotonic seconds."""

    began: float
    ended: float
    status: int
    """0: no answer."""
    told: str
    """The replica, or why there was no answer."""


class Clients:
    """So many threads, each with one request at a time."""

    def __init__(self, url: str, path: str, count: int) -> None:
        self._address = urlsplit(url).netloc
        self._path = path
        self._over = threading.Event()
        self._asked: list[Asked] = []
        self._threads = [
            threading.Thread(target=self._ask_on, name=f"client-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ask nothing more, and wait for the answers still due."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S + 10)
            assert not thread.is_alive()

    def answered(self, since: float = 0.0) -> list[Asked]:
        """Those with a 200 of all that were asked after `since`."""
        return [one for one in list(self._asked) if one.status == 200 and one.began >= since]

    def failed(self, gone: float, back: float) -> list[Asked]:
        """Those without, but for whoever was under way at some time from `gone` to `back`."""
        return [
            one
            for one in list(self._asked)
            if one.status != 200 and not (one.ended >= gone and one.began <= back)
        ]

    def _ask_on(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            status, told = ask(self._address, self._path)
            self._asked.append(Asked(began, time.monotonic(), status, told))
            self._over.wait(PAUSE_S)

    @classmethod
    @contextmanager
    def of(cls, url: str, path: str = "/render?work=1", count: int = 2) -> Iterator[Clients]:
        clients = cls(url, path, count)
        clients.start()
        try:
            yield clients
        finally:
            clients.end()


def ask(address: str, path: str, patience_s: float = PATIENCE_S) -> tuple[int, str]:
    """Status and replica; 0 and why where no whole answer came."""
    connection = http.client.HTTPConnection(address, timeout=patience_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)
    else:
        return answer.status, answer.headers.get("X-Replica", "")
    finally:
        connection.close()
