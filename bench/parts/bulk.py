"""One client that downloads or uploads as much as it is told to, as fast as it goes.
`python -m bench.parts.bulk down|up PORT BYTES` prints the seconds it took as JSON."""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Final

from bench.parts.fixed_rate import answer_size

PIECE: Final = 1024 * 1024
PATIENCE_S: Final = 60.0
"""For one piece."""


def download(port: int, size: int) -> None:
    """Raises OSError, and ValueError where something else comes than was asked for."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        sock.sendall(f"GET /stream?{size} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode())
        head, whole = _head(sock)
        left, room = whole - len(head), bytearray(PIECE)
        if whole - head.find(b"\r\n\r\n") - 4 != size:
            raise ValueError(f"{head[:200]!r} is no answer of {size} bytes")
        while left > 0:
            got = sock.recv_into(room, min(left, PIECE))
            if not got:
                raise ValueError(f"cut, {left} bytes before the end")
            left -= got


def upload(port: int, size: int) -> None:
    """Likewise; the backend says how much arrived."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
        head = f"POST /take HTTP/1.1\r\nHost: bench.example\r\nContent-Length: {size}\r\n\r\n"
        sock.sendall(head.encode())
        piece, left = memoryview(bytes(PIECE)), size
        while left > 0:
            sock.sendall(piece[: min(left, PIECE)])
            left -= PIECE
        data, whole = _head(sock)
        while len(data) < whole:
            data += sock.recv(whole - len(data)) or b" cut" * whole
        if not data.endswith(b"\r\n\r\n%d" % size):
            raise ValueError(f"{size} bytes were sent, and the backend says {data[-40:]!r}")


def _head(sock: socket.socket) -> tuple[bytes, int]:
    """What came up to the end of the head and beyond, and how long the answer is."""
    data = b""
    while (size := answer_size(data)) is None:
        piece = sock.recv(65536)
        if not piece:
            raise ValueError("cut before an answer's head")
        data += piece
    return data, size


if __name__ == "__main__":
    way, port, size = sys.argv[1:]
    began = time.monotonic()
    (download if way == "down" else upload)(int(port), int(size))
    print(json.dumps(time.monotonic() - began))
