"""A request's body as attempts send it: a small one is kept, so that another can begin anew.

Reads the client through `client_body`; owns what is kept for how long. Decides no retry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from lb.client_body import ClientBody
from lb.wire.head import Fields


class RequestBody:
    """One body. One attempt reads at a time; each begins at the first byte."""

    __slots__ = ("_client", "_kept", "_kept_bytes", "_most_kept", "_silence_s")

    def __init__(self, client: ClientBody, keep_bytes: int, silence_s: float) -> None:
        self._client = client
        self._most_kept = keep_bytes
        self._silence_s = silence_s
        self._kept: list[bytes] | None = []
        """None once more was read than is kept: no other attempt can follow."""
        self._kept_bytes = 0

    @property
    def replayable(self) -> bool:
        """Can it be sent from its first byte (again)?"""
        return self._kept is not None

    @property
    def trailers(self) -> Fields:
        """Once all of it was read."""
        return self._client.trailers

    @property
    def here(self) -> bool:
        """All of it is in memory: reading will not wait."""
        return self._client.complete

    def sent(self, data: bytes) -> None:
        """All of it was taken from the client, and sent once."""
        self._keep(data)

    def forget(self) -> None:
        """No further attempt will follow: what was read need not be kept."""
        self._kept = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """From the first byte on. Raises a RequestError where the client's side fails."""
        if self._kept is None:
            raise RuntimeError("a body that was not kept cannot be sent again")
        for piece in tuple(self._kept):
            yield piece
        while piece := await self._client.read(self._silence_s):
            self._keep(piece)
            yield piece

    def _keep(self, piece: bytes) -> None:
        if self._kept is None:
            return
        self._kept_bytes += len(piece)
        if self._kept_bytes > self._most_kept:
            self._kept = None
        else:
            self._kept.append(piece)
