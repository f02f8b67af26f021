"""libvirt's lifecycle events, handed from its thread to the event loop.

Owns who is told, and which connections are listened to: one that still has a callback is never
closed, whatever `close` is told. It must not call libvirt on its event thread, which could wait for
ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from autoscale.known import KnownDomains


class Changes:
    """`heard` is libvirt's callback. Any thread may `listen` and `leave`; everything else belongs
    to the loop's thread."""

    def __init__(self, known: KnownDomains) -> None:
        self._known = known
        self._callbacks: list[Callable[[str], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: dict[Any, int] = {}
        """By connection, libvirt's number of our callback there."""

    def belong_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell on this loop from now on."""
        self._loop = loop

    def tell(self, callback: Callable[[str], None]) -> None:
        """Call it with the name of a domain that starts, stops, pauses or goes on."""
        self._callbacks.append(callback)

    def listen(self, conn: Any, event: int) -> None:
        """To the lifecycle of its domains (`event`, libvirt's number of that kind)."""
        self._listening[conn] = conn.domainEventRegisterAny(None, event, self.heard, None)

    def leave(self, conn: Any) -> None:
        """Let the connection be closed. What libvirt raises where it is lost goes through; its own
        side has forgotten the callback by then."""
        number = self._listening.pop(conn, None)
        if number is not None:
            conn.domainEventDeregisterAny(number)

    def heard(self, _conn: Any, dom: Any, _event: int, _detail: int, _opaque: Any) -> None:
        # on libvirt's thread: copy the identifier, enqueue, leave
        loop, name, uuid = self._loop, dom.name(), dom.UUIDString()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._tell, name, uuid)

    def _tell(self, name: str, uuid: str) -> None:
        if self._known.is_foreign(uuid):
            return  # a busy host's other machines are no reason to tick
        for callback in self._callbacks:
            callback(name)
