"""Messages between the first process and one of its workers: framed JSON on a socket pair, and
listening sockets that go with them.

Owns the framing and the order. What a message says is `lead`'s and `worker`'s. A message is never
waited for when it is sent: whoever does not read it keeps it in memory here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

Message = dict[str, Any]

_HEAD: Final = struct.Struct("!IB")
"""Bytes of JSON, and how many sockets go with it."""
_READ: Final = 65536
MOST_SOCKETS: Final = 250
"""With one message; the kernel takes 253."""


class LinkClosedError(Exception):
    """The other side is gone, or we are."""


def pack(message: Message) -> bytes:
    """The JSON of a message: once for all who get the same."""
    return json.dumps(message, separators=(",", ":")).encode()


class Link:
    """One end. `end` is a stream socket of AF_UNIX; it is this object's from now on."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._loop = asyncio.get_running_loop()
        # going out: bytes, and the sockets that leave with the first of them
        self._ahead: deque[tuple[memoryview, list[int]]] = deque()
        self._writing = False
        # coming in
        self._bytes = bytearray()
        self._sockets: deque[int] = deque()
        self._messages: deque[tuple[Message, list[socket.socket]]] = deque()
        self._news = asyncio.Event()
        self._sent = asyncio.Event()
        self.closed = False
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, packed: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """Hand over a message made by `pack`. `sockets` stay the caller's: the other side gets
        duplicates. Nothing happens where the link is closed."""
        if self.closed:
            return
        if len(sockets) > MOST_SOCKETS:
            raise ValueError(f"{len(sockets)} sockets in a message, {MOST_SOCKETS} are the most")
        whole = memoryview(_HEAD.pack(len(packed), len(sockets)) + packed)
        # they may be closed here before they could be sent
        self._ahead.append((whole, [os.dup(one.fileno()) for one in sockets]))
        self._sent.clear()
        if not self._writing:
            self._write()

    async def receive(self) -> tuple[Message, list[socket.socket]]:
        """The next message, and the sockets that came with it. Raises LinkClosedError once there
        is none any more."""
        while not self._messages:
            if self.closed:
                raise LinkClosedError
            self._news.clear()
            await self._news.wait()
        return self._messages.popleft()

    async def flush(self) -> None:
        """Wait until all that was sent is in the kernel's hands, or the link is closed."""
        while self._ahead and not self.closed:
            await self._sent.wait()

    def close(self) -> None:
        """Idempotent. What came before may still be received."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._end.fileno())
        if self._writing:
            self._loop.remove_writer(self._end.fileno())
        self._end.close()
        for _, numbers in self._ahead:
            _close(numbers)
        _close(self._sockets)
        self._ahead.clear()
        self._news.set()
        self._sent.set()

    # ── out ──────────────────────────────────────────────────────────────────────────────────

    def _write(self) -> None:
        ahead = self._ahead
        while ahead:
            piece, numbers = ahead[0]
            try:
                if numbers:
                    done = socket.send_fds(self._end, [piece], numbers)
                else:
                    done = self._end.send(piece)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            _close(numbers)
            if done < len(piece):
                ahead[0] = (piece[done:], [])
            else:
                ahead.popleft()
        if bool(ahead) != self._writing:
            self._writing = bool(ahead)
            if ahead:
                self._loop.add_writer(self._end.fileno(), self._write)
            else:
                self._loop.remove_writer(self._end.fileno())
        if not ahead:
            self._sent.set()

    # ── in ───────────────────────────────────────────────────────────────────────────────────

    def _readable(self) -> None:
        try:
            data, numbers, _, _ = socket.recv_fds(
                self._end, _READ, MOST_SOCKETS, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, numbers = b"", []
        self._sockets.extend(numbers)
        if not data:
            self.close()
            return
        self._bytes += data
        self._parse()

    def _parse(self) -> None:
        held, at = self._bytes, 0
        while len(held) - at >= _HEAD.size:
            length, number = _HEAD.unpack_from(held, at)
            end = at + _HEAD.size + length
            if len(held) < end:
                break
            message = json.loads(held[at + _HEAD.size : end])
            with_it = [socket.socket(fileno=self._sockets.popleft()) for _ in range(number)]
            self._messages.append((message, with_it))
            at = end
        if at:
            del held[:at]
            self._news.set()


def _close(numbers: list[int] | deque[int]) -> None:
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)
    numbers.clear()
