"""Client connections that are held and do nothing: bare sockets from several loopback addresses."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final

from bench.parts.cases import CASES
from bench.parts.fixed_rate import answer_size

SOURCES: Final = 8
"""Addresses to come from, 127.0.0.2 and on: one has some 28,000 ports, of which others are in use
or were a minute ago."""
PATIENCE_S: Final = 10.0

_BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT, which Python does not name: the port is chosen when connecting."""
_RESET: Final = struct.pack("ii", 1, 0)


@contextlib.contextmanager
def held(port: int, number: int, *, asked: bool) -> Iterator[None]:
    """So many connections, of which each has had an answer where `asked`. Reset at the end, which
    leaves no port in TIME_WAIT. Raises OSError, ValueError for an answer that is none."""
    with contextlib.ExitStack() as stack:
        for at in range(number):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(PATIENCE_S)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{2 + at % SOURCES}", 0))
            sock.connect(("127.0.0.1", port))
            if asked:
                _ask(sock)
        yield


def _ask(sock: socket.socket) -> None:
    sock.sendall(CASES["get"].request())
    data, size = b"", None
    while size is None or len(data) < size:
        piece = sock.recv(65536)
        if not piece:
            raise ValueError("a connection was closed")
        data += piece
        size = answer_size(data)
