"""Do the proxies that are compared do the same? Looks at what arrives at the backend. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

EACH: Final = (
    b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-forwarded-host",
    b"forwarded", b"x-request-id", b"via",
)  # fmt: skip
"""Fields that a backend gets from every proxy."""


def fields(head: bytes) -> dict[bytes, bytes]:
    """By name in lower case."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:] if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def unequal(proxy: str, heads: Sequence[bytes]) -> list[str]:
    """What is missing in these heads of several requests to one proxy, or should not be so."""
    told = [fields(head) for head in heads]
    wrong = [
        f"{proxy} sends no {name.decode()}"
        for name in EACH
        if not all(head.get(name) for head in told)
    ]
    ids = [head.get(b"x-request-id") for head in told]
    if len(set(ids)) < len(ids):
        wrong.append(f"{proxy} gives several requests one id")
    if any(head.get(b"connection", b"").lower() == b"close" for head in told):
        wrong.append(f"{proxy} keeps no connection to its backend")
    wrong += [
        f"{proxy} says {head[b'forwarded'].decode()!r}, which names no host"
        for head in told[:1]
        if b"forwarded" in head and not re.search(rb'host="?bench\.example', head[b"forwarded"])
    ]
    return wrong
