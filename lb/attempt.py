"""One attempt at a request: one lease, one exchange with one backend, ended exactly once.

Ties a lease to what is done with it, so that no path, cancellation included, leaves either behind.
Whether another attempt follows is `journey`'s to ask `retry`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus

from lb.backend import Backend
from lb.backend_connection import BackendConnection
from lb.backend_exchange import BackendExchange, Interim
from lb.config import TimeoutsConfig
from lb.errors import Fault, RequestError, UpstreamError
from lb.exchange import Onward
from lb.pool import Lease
from lb.request_body import RequestBody
from lb.site import Site
from lb.wire.head import AnswerHead


class Attempt:
    """Use as a context manager: leaving it releases the lease and settles the connection."""

    __slots__ = (
        "_carried",
        "_dropped",
        "_head_s",
        "_sent_at",
        "_site",
        "exchange",
        "head",
        "lease",
    )

    exchange: BackendExchange
    """Once sent."""
    head: AnswerHead

    def __init__(self, site: Site, lease: Lease) -> None:
        self._site = site
        self.lease = lease
        self._sent_at = 0.0
        self._head_s: float | None = None
        """From sent to the answer's head: the rest also depends on how quickly the client reads."""
        self._carried = False
        """There is an exchange to be ended."""
        self._dropped: bool | None = None
        """Did it end without an answer that tells how long answers take? None: it tells nothing."""

    @property
    def backend(self) -> Backend:
        return self.lease.backend

    async def send(
        self,
        onward: Onward,
        body: RequestBody | None,
        interim: Interim,
        timeouts: TimeoutsConfig,
        *,
        fresh: bool = False,
    ) -> None:
        """Send, and wait for the answer's head, and the rest of a small one. Raises a RequestError;
        a backend's fault is counted against it. `fresh`: on a new connection."""
        self._sent_at = self._site.pool.clock()
        upstream = self._site.upstream
        await self._hear(upstream.send(self.backend, onward, body, interim, timeouts, fresh=fresh))

    async def resume(
        self,
        connection: BackendConnection,
        onward: Onward,
        body: RequestBody | None,
        interim: Interim,
        timeouts: TimeoutsConfig,
        *,
        began: float,
        sent_at: float,
    ) -> None:
        """The same for one that was sent there, at `began` by the pool's clock and `sent_at` by
        the loop's."""
        self._sent_at = began
        upstream = self._site.upstream
        await self._hear(
            upstream.resume(self.backend, connection, onward, body, interim, timeouts, sent_at)
        )

    async def _hear(self, answer: Awaitable[tuple[BackendExchange, AnswerHead]]) -> None:
        try:
            self.exchange, self.head = await answer
            self._carried = True
            self._head_s = self._site.pool.clock() - self._sent_at
            await self.exchange.small_whole()
        except RequestError as error:
            self.failed(error)
            raise

    def failed(self, error: RequestError) -> None:
        self.lease.failed(error)
        if error.fault is Fault.BACKEND:
            self._dropped = True
        if isinstance(error, UpstreamError):
            self._site.counters.upstream_error(error.reason)

    def answered(self) -> float:
        """The whole answer came. Returns how long that took, in seconds."""
        now = self._site.pool.clock()
        took_s = now - self._sent_at
        self._dropped = self.head.status == HTTPStatus.SERVICE_UNAVAILABLE
        self.lease.answered(took_s, now, self.head.status)
        return took_s

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self._carried:
            self._carried = False
            self._site.upstream.finish(self.backend, self.exchange)
        self._learn()
        self.lease.release()

    def _learn(self) -> None:
        """Tell the limit that finds itself how it went, before somebody else gets the place."""
        dropped, self._dropped = self._dropped, None
        site = self._site
        if dropped is not None and site.config.adaptive.enabled:
            now = site.pool.clock()
            latency_s = now - self._sent_at if self._head_s is None else self._head_s
            site.learn(latency_s, dropped, now)
