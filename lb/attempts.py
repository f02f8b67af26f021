"""Whom to ask, and whom next: leases, retries and hedges of one request, until one is answered.

Asks `retry` what may follow what, the budget whether there is room for it, and the pool for whom.
What is sent, and what becomes of the answer, is `journey`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lb.attempt import Attempt
from lb.backend import Backend
from lb.backend_exchange import Interim
from lb.config import TimeoutsConfig
from lb.errors import (
    AllTriedError,
    BreakerOpenError,
    NoBackendError,
    Repeat,
    RequestError,
    UpstreamError,
)
from lb.exchange import Onward
from lb.headers import Fields
from lb.hedge import hedged
from lb.pool import Lease
from lb.request_body import RequestBody
from lb.retry import costs, may_hedge, may_retry, repeat_of_status
from lb.site import Site
from lb.wire.head import AnswerHead

if TYPE_CHECKING:
    from lb.fastlane import Begun

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sending:
    """What all attempts of one request have in common."""

    onward: Onward
    body: RequestBody | None
    timeouts: TimeoutsConfig
    client: bytes
    """Whose turn it is in the queue, and what hashing hangs on."""
    fields: Fields
    """The client's."""
    interim: Interim
    """Told of interim answers."""
    written: Callable[[], int]
    """Bytes of a final answer that the client has."""


def _silent(head: AnswerHead) -> None:
    """Of two backends asked at once, one speaks to the client before the answer."""


class Attempts:
    """`answer` is to be called once. The rest is for the log."""

    __slots__ = ("_clock", "_sending", "_site", "_stale", "_tried", "admitted_at", "backend",
                 "made", "queue_s", "retry_reason")  # fmt: skip

    def __init__(self, site: Site, sending: Sending, clock: Callable[[], float]) -> None:
        self._site = site
        self._sending = sending
        self._clock = clock
        self._tried: list[Backend] = []
        """Those that failed, and are avoided."""
        self._stale = False
        """A kept connection turned out stale: the next attempt opens its own."""
        self.admitted_at: float | None = None
        """When the breaker let it pass; it waits to be told how it went."""
        self.backend: Backend | None = None
        """The last one asked."""
        self.made = 0
        self.queue_s = 0.0
        self.retry_reason = ""

    async def answer(self, begun: Begun | None = None) -> Attempt:
        """The attempt whose answer is to be passed back; the caller ends it. `begun`: the first
        one is under way. Raises a RequestError."""
        if begun is None:
            attempt = Attempt(self._site, await self._admitted())
        else:
            self.admitted_at = begun.began
            attempt = Attempt(self._site, begun.lease)
        while True:
            try:
                attempt, failure = await self._send(attempt, begun)
                begun = None
                following = await self._following(attempt, failure)
            except BaseException:
                attempt.end()
                raise
            if following is None:
                return attempt
            attempt.end()
            attempt = following

    def judged(self, *, ok: bool) -> None:
        """Tell the breaker, once, how it went."""
        if self.admitted_at is not None:
            admitted_at, self.admitted_at = self.admitted_at, None
            self._site.breaker.done(ok, self._clock(), admitted_at)

    def forgotten(self) -> None:
        """Tell the breaker that nobody will ever know."""
        if self.admitted_at is not None:
            admitted_at, self.admitted_at = self.admitted_at, None
            self._site.breaker.forgotten(admitted_at)

    async def _admitted(self) -> Lease:
        """A lease, at once or after waiting in line. Raises a NoBackendError."""
        site = self._site
        asked_at = self._clock()
        retry_after_s = site.breaker.admit(asked_at)
        if retry_after_s is not None:
            raise BreakerOpenError(
                f"too many requests to {site.name} fail", retry_after_s=retry_after_s
            )
        self.admitted_at = asked_at
        site.budget.request(asked_at)
        try:
            return await self._lease()
        finally:
            now = self._clock()
            self.queue_s = now - asked_at
            site.counters.queue_wait.record(self.queue_s, now)

    async def _lease(self, exclude: list[Backend] | None = None) -> Lease:
        return await self._site.line.lease(
            client=self._sending.client,
            key=self._site.key_of(self._sending.fields, self._sending.client),
            prefer=self._site.preferred(self._sending.fields),
            exclude=exclude or (),
            max_wait=self._site.max_wait,
        )

    # ── attempts ─────────────────────────────────────────────────────────────────────────────

    async def _send(
        self, attempt: Attempt, begun: Begun | None
    ) -> tuple[Attempt, UpstreamError | None]:
        """Send once, or to two where hedged. Returns the attempt that counts, and its failure."""
        self.made += 1
        self.backend = attempt.backend

        sending, after_s = self._sending, self._site.config.retry.hedge_after

        async def send(one: Attempt) -> None:
            interim = sending.interim if one is attempt else _silent
            if one is attempt and begun is not None and begun.connection is not None:
                await one.resume(
                    begun.connection, sending.onward, sending.body, interim, sending.timeouts,
                    began=begun.began, sent_at=begun.sent_at,
                )  # fmt: skip
                return
            await one.send(
                sending.onward, sending.body, interim, sending.timeouts, fresh=self._stale
            )

        try:
            alone = sending.body is not None or sending.onward.upgrade
            if after_s and may_hedge(sending.onward.method, alone):
                winner = await hedged(attempt, lambda: self._second(attempt), send, after_s)
                self.backend = winner.backend
                return winner, None
            await send(attempt)
        except UpstreamError as error:
            log.debug(
                "%s on %s: %s", self._sending.onward.identifier.decode(), attempt.backend, error
            )
            return attempt, error
        return attempt, None

    def _second(self, first: Attempt) -> Attempt | None:
        """A hedge: at once and within the budget, or not at all."""
        try:
            lease = self._site.line.lease_now(exclude=[first.backend])
        except NoBackendError:
            return None
        if not self._site.budget.allow(self._clock()):
            lease.release()
            return None
        self.made += 1
        self._site.counters.retried("hedge")
        return Attempt(self._site, lease)

    async def _following(self, attempt: Attempt, failure: RequestError | None) -> Attempt | None:
        """The attempt that follows; None where the answer is to be passed back. Raises `failure`
        where nothing follows it."""
        site, config = self._site, self._site.config.retry
        if failure is None:
            repeat = repeat_of_status(attempt.head.status, config)
            reason = f"status_{attempt.head.status}"
        else:
            repeat, reason = failure.repeat, failure.reason
        allowed = may_retry(
            repeat,
            self._sending.onward.method,
            len(self._tried) + 1,
            replayable=self._sending.body is None or self._sending.body.replayable,
            response_bytes=self._sending.written(),
            config=config,
            stale_before=self._stale,
        )
        lease: Lease | None = None
        if allowed:
            stale = not costs(repeat, stale_before=self._stale)
            if stale:
                self._stale = True
            else:
                self._tried.append(attempt.backend)
            if stale or site.budget.allow(self._clock()):
                lease = await self._lease_again(attempt, repeat, wait=failure is not None)
        if lease is None:
            if failure is not None:
                raise failure
            return None
        self.retry_reason = reason
        site.counters.retried(reason)
        return Attempt(site, lease)

    async def _lease_again(self, attempt: Attempt, repeat: Repeat, *, wait: bool) -> Lease | None:
        """A lease for one more attempt, on another backend; None where there is none.

        After a reset the same backend may be asked once more where it is the only one. An answer
        that could be passed back (`wait` is False) is given up only for a lease at once.
        """
        try:
            if not wait:
                return self._site.line.lease_now(exclude=self._tried)
            attempt.end()
            try:
                return await self._lease(self._tried)
            except AllTriedError:
                if repeat is not Repeat.IDEMPOTENT or len(self._tried) > 1:
                    raise
                return await self._lease()
        except NoBackendError:
            return None
