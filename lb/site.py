"""One service as requests meet it: its pool, its queue, its connections, and what it has learned.

Holds the parts together and hands each its settings, at the start and when the configuration is
read again. Carries no request (`proxy` does) and knows nothing of VMs (`scaler` does).
"""

from __future__ import annotations

from autoscale.model import Demand
from lb import proxy_protocol
from lb.adaptive import AdaptiveLimit
from lb.backend import Backend, Lifecycle
from lb.breaker import Breaker, BreakerState
from lb.budget import RetryBudget
from lb.change import Aspect, Change
from lb.config import ProxyConfig, ServiceConfig
from lb.error_pages import ErrorPages
from lb.headers import Fields
from lb.pool import Pool
from lb.probe import Manner
from lb.request_metrics import RequestMetrics
from lb.ring import hash_key
from lb.sticky import Sticky
from lb.tls import client_context
from lb.upstream import Upstream
from lb.waiting import WaitingLine


class Site:
    """`pool` is configured already. `secret` signs the cookies of sticky sessions. Raises TlsError
    where a file that the configuration names cannot be used."""

    def __init__(
        self,
        name: str,
        config: ServiceConfig,
        proxy: ProxyConfig,
        pool: Pool,
        counters: RequestMetrics,
        *,
        secret: bytes = b"",
        pages: ErrorPages | None = None,
    ) -> None:
        self.name = name
        self.config = config
        self.pool = pool
        self.counters = counters
        self.pages = pages or ErrorPages()
        self.line = line = WaitingLine(pool, config.queue)
        counters.waiting = lambda: len(line)
        self.budget = RetryBudget(config.retry)
        self.breaker = Breaker(config.breaker)
        self.adaptive = AdaptiveLimit(config.adaptive)
        self.upstream = Upstream(proxy.limits, config)
        counters.breaker_open = lambda: self.breaker.state is not BreakerState.CLOSED
        counters.limit = lambda: self.adaptive.limit if self.config.adaptive.enabled else None
        self._secret = secret
        self._derive()
        self._unsubscribe = pool.subscribe(self._changed)

    def close(self) -> None:
        """Close what is kept between requests; none runs any more. Idempotent."""
        self._unsubscribe()
        self._unsubscribe = lambda: None
        self.upstream.close()

    def configure(self, config: ServiceConfig, proxy: ProxyConfig, pages: ErrorPages) -> None:
        """Go on with these settings. What was learned stays: of the backends that stay, of how
        often requests fail, of how many can be carried. Raises TlsError, and then nothing has
        changed."""
        self.upstream.configure(proxy.limits, config)
        self.config = config
        self.pages = pages
        self.line.config = config.queue
        self.budget.config = config.retry
        self.breaker.config = config.breaker
        self.adaptive.config = config.adaptive
        self._derive()
        # last, because it serves those who wait: by the new rules
        self.pool.configure(config)

    def _derive(self) -> None:
        config, adaptive = self.config, self.adaptive
        self.sticky = Sticky(self._secret, config.sticky) if config.sticky is not None else None
        counters = self.counters  # a tunnel's place says nothing of how much can be worked on
        self.line.limit = (
            (lambda: adaptive.limit + counters.tunnels) if config.adaptive.enabled else None
        )

    def learn(self, latency_s: float, dropped: bool, now: float) -> None:
        """How a request went, for the limit that finds itself; while it still holds its place."""
        running = self.pool.in_flight - self.counters.tunnels
        self.adaptive.finished(latency_s, running, dropped, now)

    @property
    def max_wait(self) -> float | None:
        """How long a request may wait in line, in seconds; None: as the queue says."""
        if not self.config.adaptive.enabled:
            return None
        return self.adaptive.max_wait(self.line.standing_s)

    def _changed(self, change: Change) -> None:
        self.upstream.settle()
        if not change.dead:
            return
        gone = change.aspect is Aspect.LIFECYCLE
        # one that is there may yet answer: its requests are given up only for a better chance
        if gone or (self.pool.available and self.config.retry.attempts > 1):
            self.upstream.give_up(change.backend, all_of_it=gone)

    # ── what the service tells of itself ─────────────────────────────────────────────────────

    @property
    def takes_requests(self) -> bool:
        """A request that comes now is served, or waits for a backend that comes up for it."""
        if self.pool.available:
            return True
        lost = any(backend.lifecycle is Lifecycle.READY for backend in self.pool)
        return not lost and self.line.awaited() > 0

    def demand(self) -> Demand:
        """What clients ask of the service now, on all workers. Read once a second: 30 µs for the
        latency, and 2 µs a backend."""
        now, there = self.pool.clock(), self.counters.elsewhere
        p50, p99 = self.counters.duration.quantiles((0.5, 0.99), now)
        return Demand(
            at=now,
            arrived_total=self.counters.arrived,
            queued=len(self.line) + there.waiting,
            waiting_s=max(self.line.standing_s, there.waiting_s),
            latency_p50_s=p50,
            latency_p99_s=p99,
            in_flight={backend.name: backend.running for backend in self.pool},
            served_total={backend.name: backend.latency.count for backend in self.pool},
        )

    # ── what a request hangs on ──────────────────────────────────────────────────────────────

    def key_of(self, fields: Fields, client: bytes) -> bytes | None:
        """What `consistent_hash` hangs a request on; None where the policy asks for nothing."""
        if self.config.policy != "consistent_hash":
            return None
        return hash_key(self.config.hash, fields, client)

    def preferred(self, fields: Fields) -> str | None:
        """The backend that a sticky client comes back to."""
        return self.sticky.backend(fields) if self.sticky is not None else None

    def cookie(self, backend: Backend, fields: Fields, scheme: bytes) -> bytes | None:
        """The Set-Cookie value that brings the client back to `backend`; None where it has it."""
        if self.sticky is None or self.sticky.backend(fields) == backend.name:
            return None
        return self.sticky.cookie(backend.name, https=scheme == b"https")


def manner_of(config: ServiceConfig) -> Manner:
    """How a service's backends are asked for their health: over the same TLS as requests, and with
    the header that they expect. Raises TlsError."""
    greeting = b""
    if config.send_proxy_protocol != "off":
        greeting = proxy_protocol.encode(1 if config.send_proxy_protocol == "v1" else 2, None, None)
    return Manner(client_context(config.tls), config.tls.server_name, greeting)
