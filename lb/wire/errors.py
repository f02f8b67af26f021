"""What the wire's readers raise: the bytes are not what RFC 9112 allows."""

from __future__ import annotations


class WireError(Exception):
    """Malformed, too long, or of another version; `status` is what a client would be answered."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status
