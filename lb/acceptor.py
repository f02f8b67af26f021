"""Accepts connections that begin with a PROXY header or a TLS handshake, and hands them on.

A header comes before TLS, so it has to be off the socket before a handshake can begin; asyncio's
own server would begin at once, and would tell nobody of connections that stay within it: here they
count towards the limits from their first packet on. What the header says is `proxy_protocol`'s,
who may send one `trust`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Container
from typing import Final

from lb import proxy_protocol
from lb.client_connection import ClientConnection
from lb.proxy_protocol import MAX_V2, MalformedProxyHeader
from lb.tasks import spawn

log = logging.getLogger(__name__)

# No header is longer; how much of this is one, is only known once it was looked at.
PEEK_BYTES: Final = MAX_V2
# Where no file is left for a connection.
FULL_PAUSE_S: Final = 1.0

Make = Callable[[], ClientConnection]


class Acceptor:
    """One listening socket. `close` stops it; connections already handed on stay, and those that
    are not that far are still handed on, unless they are `cut`.

    `trust`: who may send PROXY headers, and has to; None where none are sent. `knocked` says
    whether one more connection of this peer may begin, `settled` that it was handed on, or ended.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Make,
        *,
        knocked: Callable[[str], bool],
        settled: Callable[[str], None],
        trust: Callable[[], Container[str]] | None,
        timeout_s: Callable[[], float],
        context: ssl.SSLContext | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._listening = listening
        self._make = make
        self._knocked = knocked
        self._settled = settled
        self._trust = trust
        self._timeout_s = timeout_s
        self._context = context
        self._loop = loop
        self._arriving: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    def cut(self) -> None:
        for task in self._arriving:
            task.cancel()

    def _accept(self) -> None:
        try:
            connected, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # It stays readable all the while: asking again at once would be all we do.
                log.warning("cannot accept connections: %s", os.strerror(error.errno).lower())
                self._loop.remove_reader(self._listening.fileno())
                self._resume = self._loop.call_later(FULL_PAUSE_S, self._listen)
            return
        connected.setblocking(False)
        task = spawn(self._introduce(connected), name="begin of a connection")
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _listen(self) -> None:
        self._resume = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _introduce(self, connected: socket.socket) -> None:
        # Behind a trusted proxy are many: which client it is, is not known before its header.
        who = "" if self._trust is not None else _peer(connected)
        if not self._knocked(who):
            connected.close()
            return
        try:
            await self._hand_on(connected, who)
        except (MalformedProxyHeader, TimeoutError, OSError, ssl.SSLError) as error:
            log.debug("a connection that did not begin as it must was closed: %s", error)
            connected.close()
        except BaseException:
            connected.close()
            raise

    async def _hand_on(self, connected: socket.socket, who: str) -> None:
        settled = False

        def settle() -> None:
            nonlocal settled
            if not settled:
                settled = True
                self._settled(who)

        try:
            connection = self._make()
            # from then on the connection counts itself
            connection.on_made = settle
            if self._trust is not None:
                parsed = await self._trusted_header(connected, self._trust())
                if not parsed.local and parsed.source is not None:
                    connection.introduced = parsed
            handshake_s = (self._timeout_s() or None) if self._context is not None else None
            await self._loop.connect_accepted_socket(
                lambda: connection,
                connected,
                ssl=self._context,
                ssl_handshake_timeout=handshake_s,
            )
        finally:
            settle()

    async def _trusted_header(
        self, connected: socket.socket, trust: Container[str]
    ) -> proxy_protocol.Parsed:
        peer = _peer(connected)
        if peer not in trust:
            log.warning("%s sends PROXY headers and is none of trusted_proxies", peer)
            raise MalformedProxyHeader("nobody whom we trust sent it")
        async with asyncio.timeout(self._timeout_s() or None):
            return await self._header(connected)

    async def _header(self, connected: socket.socket) -> proxy_protocol.Parsed:
        begun = b""
        while True:
            data = await self._peek(connected)
            parsed = proxy_protocol.parse(begun + data)
            if parsed is not None:
                connected.recv(parsed.consumed - len(begun))
                return parsed
            # all of it belongs to a header: off the socket, so that the next look is at the rest
            begun += connected.recv(len(data))

    async def _peek(self, connected: socket.socket) -> bytes:
        readable = self._loop.create_future()
        self._loop.add_reader(connected.fileno(), _resolve, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(connected.fileno())
        data = connected.recv(PEEK_BYTES, socket.MSG_PEEK)
        if not data:
            raise MalformedProxyHeader("the connection ended before one")
        return data


def _peer(connected: socket.socket) -> str:
    with contextlib.suppress(OSError):  # it may have gone already
        return str(connected.getpeername()[0])
    return ""


def _resolve(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
