"""Reads a request's Cookie fields as servers do in practice (RFC 6265 §5.4 is what browsers send).
Pure; what a value means is its reader's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def cookie_values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> Iterator[bytes]:
    """Every value of the cookie with this name, in order. Names are compared as they are, case
    included; quotes around a value are part of it."""
    for field, value in fields:
        if len(field) == 6 and field.lower() == b"cookie" and name in value:
            for pair in value.split(b";"):
                key, equals, found = pair.partition(b"=")
                if equals and key.strip(b" \t") == name:
                    yield found.strip(b" \t")
