"""The journal live, as server-sent events: ids, resumption, heartbeat.

Owns the open streams, so that the server can end them. Judges nothing about who may listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final

from aiohttp import web

from lb.admin.problems import ProblemError
from lb.journal import Event, Following, Journal

HEARTBEAT_S: Final = 15.0
"""Below the 30 to 60 s after which proxies between give up on a silent connection."""
WRITE_S: Final = 10.0
"""A listener that takes nothing for so long is dropped; it resumes by its last id."""
MAX_STREAMS: Final = 64


class EventStreams:
    """Every open stream of one server."""

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._open: set[Following] = set()

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Ask every stream to end; its handler returns."""
        for following in tuple(self._open):
            following.close()

    async def serve(
        self, request: web.Request, journal: Journal, since_id: int | None, service: str | None
    ) -> web.StreamResponse:
        """Answer with events until either side ends it."""
        if len(self._open) >= MAX_STREAMS:
            raise ProblemError(503, f"{MAX_STREAMS} listeners are connected already")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        with journal.subscribe(since_id, service) as following:
            self._open.add(following)
            try:
                await response.prepare(request)
                await self._feed(request, response, following)
            finally:
                self._open.discard(following)
        return response

    async def _feed(
        self, request: web.Request, response: web.StreamResponse, following: Following
    ) -> None:
        with contextlib.suppress(ConnectionError):
            await _write(request, response, b"retry: 1000\n\n")
            while not following.closed:
                events = await following.batch(self._heartbeat_s)
                data = b"".join(encode(event) for event in events) or b": heartbeat\n\n"
                await _write(request, response, data)


def encode(event: Event) -> bytes:
    """One event on the wire. JSON has no raw line breaks, so one data line is enough."""
    data = json.dumps(event.as_dict(), ensure_ascii=False)
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the listener does not read") from None
