"""Where to listen, as the command line says it. Pure."""

from __future__ import annotations

from loadtest.errors import InputError


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `:PORT` (loopback), `[::1]:PORT`. Raises InputError."""
    host, colon, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not colon or not 0 <= number < 65_536:
        raise InputError(f"--metrics-listen {text!r}: write HOST:PORT, e.g. 127.0.0.1:9901")
    return host.strip("[]") or "127.0.0.1", number
