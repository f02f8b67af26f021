"""Whose turn is it, and who has to go? Clients take turns, each with a queue of its own. Pure.

Knows of those who wait only which client each belongs to. Everything costs the same however many
wait: they are kept in linked order (OrderedDict: a plain dict's first entry gets ever slower to
find as those before it are deleted), and clients by how many they have waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)


class Turns(Generic[W]):
    """`len(turns)` wait. Among one client's, first come, first served; clients in rotation."""

    def __init__(self) -> None:
        self._clients: OrderedDict[bytes, OrderedDict[W, None]] = OrderedDict()
        """The next client first. None of them without anybody waiting."""
        self._having: list[OrderedDict[bytes, None]] = [OrderedDict()]
        """By number: the clients with so many waiting. The last one is not empty (nor the first,
        where it is the only one: nobody has none)."""
        self.number = 0
        """`len`, for who asks with every request."""

    def __len__(self) -> int:
        return self.number

    def count(self, client: bytes) -> int:
        """How many of this client's wait."""
        return len(self._clients.get(client, ()))

    def add(self, client: bytes, waiter: W) -> None:
        """At the end of its client's queue; a client that had none waiting goes last."""
        queue = self._clients.get(client)
        if queue is None:
            queue = self._clients[client] = OrderedDict()
        queue[waiter] = None
        self.number += 1
        self._counted(client, len(queue) - 1, len(queue))

    def first(self) -> tuple[bytes, W]:
        """The next one and its client. At least one has to wait."""
        client = next(iter(self._clients))
        return client, next(iter(self._clients[client]))

    def rotate(self) -> None:
        """The first client had its turn."""
        self._clients.move_to_end(next(iter(self._clients)))

    def remove(self, client: bytes, waiter: W) -> None:
        """It waits no more; nothing happens where it did not."""
        queue = self._clients.get(client)
        if queue is None or waiter not in queue:
            return
        del queue[waiter]
        self.number -= 1
        if not queue:
            del self._clients[client]
        self._counted(client, len(queue) + 1, len(queue))

    def displace(self, newcomer: bytes) -> W | None:
        """Take out the last one of the client with most waiting, for one of `newcomer`'s.

        None where nobody has at least two more than that client: they would only swap roles.
        """
        if len(self._having) - 1 < self.count(newcomer) + 2:
            return None
        greedy = next(iter(self._having[-1]))
        waiter = next(reversed(self._clients[greedy]))
        self.remove(greedy, waiter)
        return waiter

    def _counted(self, client: bytes, before: int, after: int) -> None:
        having = self._having
        if before:
            del having[before][client]
        if after == len(having):
            having.append(OrderedDict())
        if after:
            having[after][client] = None
        while len(having) > 1 and not having[-1]:
            having.pop()
