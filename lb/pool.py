"""Owns a service's backends: who is in, who may be picked, who holds a lease. No I/O.

Mutable state: `_backends` (by name, in order of joining), `_available` (the same, filtered; rebuilt
whenever a bit flips, so that a lease never filters), `_departed` (gone, with requests still
running). Every change happens between two awaits of somebody else: nothing here is async.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Self

from autoscale.model import EventKind, PoolLoad, Reason, ScaleEvent
from lb.backend import Backend, BackendView, Lifecycle
from lb.balance import Policy, Rng, policy_named
from lb.change import Aspect
from lb.change import Change as Change
from lb.change import Report as Report
from lb.config import HealthConfig, ServiceConfig
from lb.errors import (
    AllTriedError,
    AllUnhealthyError,
    AtCapacityError,
    ConnectFailedError,
    Fault,
    NoBackendError,
    NoneReadyError,
    PoolEmptyError,
    RequestError,
    UnknownBackendError,
)
from lb.latency import Latency

log = logging.getLogger(__name__)


class Lease:
    """One request's claim on one backend; counted since `Pool.lease`, released exactly once.

    Use as a context manager. Before leaving, say how it went: `answered` or `failed`. Neither
    (a client that hung up, a cancellation) counts for nothing.
    """

    __slots__ = ("_open", "_pool", "backend")

    def __init__(self, pool: Pool, backend: Backend) -> None:
        self._pool = pool
        self._open = True
        self.backend = backend

    def answered(self, seconds: float, now: float) -> None:
        """A whole answer came, `seconds` after the request was sent."""
        backend = self.backend
        backend.connect_failures = 0
        backend.answered_at = now
        backend.latency.record(seconds, now)

    def failed(self, error: RequestError) -> None:
        """It ended in an error; only the backend's own fault counts against it."""
        self._pool.record_failure(self.backend, error)

    def release(self) -> None:
        if self._open:
            self._open = False
            self._pool._released(self.backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Pool:
    """The backends of one service.

    `health` supplies the rise and fall counts. `max_in_flight` is each backend's limit. `clock` is
    monotonic seconds. `rng` only breaks ties and spreads load.
    """

    def __init__(
        self,
        service: str,
        policy: Policy,
        health: HealthConfig,
        clock: Callable[[], float] = time.monotonic,
        rng: Rng | None = None,
        max_in_flight: int = sys.maxsize,
    ) -> None:
        self.service = service
        self.max_in_flight = max_in_flight
        self.policy = policy
        self.health = health
        self.clock = clock
        self._rng: Rng = rng if rng is not None else random.Random()
        self._backends: dict[str, Backend] = {}
        self._available: list[Backend] = []
        self._departed: list[Backend] = []
        self._retired_latency = Latency()
        self._subscribers: list[Callable[[Change], None]] = []
        self.on_room: Callable[[], None] = lambda: None
        """Called after each release and each flip: somebody who waits may have a chance now."""

    @classmethod
    def from_config(
        cls, service: str, config: ServiceConfig, clock: Callable[[], float] = time.monotonic
    ) -> Pool:
        """A pool with the configured policy, health rules and static backends."""
        pool = cls(
            service,
            policy_named(config.policy),
            config.health,
            clock,
            max_in_flight=config.max_in_flight,
        )
        for address in config.backends:
            pool.add_static(address)
        return pool

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[Backend]:
        return iter(tuple(self._backends.values()))

    def __len__(self) -> int:
        return len(self._backends)

    def __contains__(self, name: object) -> bool:
        return name in self._backends

    def get(self, name: str) -> Backend | None:
        return self._backends.get(name)

    @property
    def available(self) -> tuple[Backend, ...]:
        return tuple(self._available)

    @property
    def in_flight(self) -> int:
        """Running leases, those on backends that already left included."""
        return sum(b.in_flight for b in self._backends.values()) + sum(
            b.in_flight for b in self._departed
        )

    def load(self) -> PoolLoad:
        """What policy and fleet may read. A gone backend is listed until its last request ends."""
        known = [*self._backends.values(), *self._departed]
        return PoolLoad(self.service, tuple(backend.load() for backend in known))

    def snapshot(self, cpu: Mapping[str, float] | None = None) -> list[BackendView]:
        """Every backend at this instant, in order of joining. `cpu`: utilisation by name."""
        now = self.clock()
        cpu = cpu or {}
        return [backend.view(now, cpu.get(backend.name)) for backend in self._backends.values()]

    def retired_latency(self) -> Latency:
        """Upstream durations of all backends that left: totals must not go down with them."""
        total = Latency()
        total.absorb(self._retired_latency)
        for backend in self._departed:
            total.absorb(backend.latency)
        return total

    def __repr__(self) -> str:
        words: dict[str, int] = {}
        for backend in self._backends.values():
            sick = backend.lifecycle is Lifecycle.READY and not backend.healthy
            word = "unhealthy" if sick else backend.lifecycle.value
            words[word] = words.get(word, 0) + 1
        listed = ", ".join(f"{number} {word}" for word, number in words.items()) or "empty"
        return f"<Pool {self.service}: {listed}; {self.in_flight} in flight>"

    # ── membership ───────────────────────────────────────────────────────────────────────────

    def apply(self, event: ScaleEvent) -> None:
        """Take over one change of the fleet. Idempotent: the fleet may say it again each tick."""
        if event.service != self.service:
            log.warning("pool %s ignores an event for %s", self.service, event.service)
            return
        if event.kind is EventKind.JOIN:
            self._join(event)
            return
        backend = self._backends.get(event.backend)
        if backend is None:
            log.info("pool %s: %s of unknown %s", self.service, event.kind, event.backend)
        elif event.kind is EventKind.DRAIN:
            self._drain(backend, event.reason)
        else:
            self._leave(backend, event.reason)

    def add_static(self, address: str, *, name: str | None = None, weight: int = 1) -> Backend:
        """An operator's backend, named by its address unless told. Idempotent."""
        name = name or address
        known = self._backends.get(name)
        if known is not None and known.address == address:
            return known
        if known is not None:
            self._leave(known, Reason.REPLACED)
        return self._add(Backend(name, address, weight=weight))

    def drain(self, name: str) -> Backend:
        """No new request to it. Raises UnknownBackendError."""
        backend = self._known(name)
        self._drain(backend, Reason.OPERATOR)
        return backend

    def ready(self, name: str) -> Backend:
        """Take a drain back; its next good probe makes it ready. Raises UnknownBackendError."""
        backend = self._known(name)
        self._undrain(backend, Reason.OPERATOR)
        return backend

    def remove(self, name: str) -> Backend:
        """Forget it; its running requests may finish. Raises UnknownBackendError."""
        backend = self._known(name)
        self._leave(backend, Reason.OPERATOR)
        return backend

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back, synchronously, after each flip. Returns what ends the subscription."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _known(self, name: str) -> Backend:
        backend = self._backends.get(name)
        if backend is None:
            raise UnknownBackendError(f"no backend {name} in service {self.service}")
        return backend

    def _join(self, event: ScaleEvent) -> None:
        known = self._backends.get(event.backend)
        if known is not None and known.address == event.address:
            known.host, known.weight = event.host or known.host, event.weight
            self._undrain(known, event.reason)
            return
        if known is not None:
            # Same VM, new address (it was restored or migrated): what we knew of the old
            # address says nothing of the new one.
            self._leave(known, Reason.REPLACED)
        self._add(
            Backend(
                event.backend,
                event.address,
                host=event.host,
                vm=event.backend,
                weight=event.weight,
                joined_because=event.reason,
            )
        )

    def _add(self, backend: Backend) -> Backend:
        self._backends[backend.name] = backend
        self._tell(
            backend, Aspect.LIFECYCLE, "", backend.lifecycle, backend.joined_because, "joined"
        )
        return backend

    def _drain(self, backend: Backend, reason: Reason) -> None:
        if backend.lifecycle is not Lifecycle.DRAINING:
            self._move(backend, Lifecycle.DRAINING, reason, f"{backend.in_flight} in flight")

    def _undrain(self, backend: Backend, reason: Reason) -> None:
        if backend.lifecycle is Lifecycle.DRAINING:
            backend.joined_because = reason
            backend.forget_health()
            self._move(backend, Lifecycle.STARTING, reason, "drain taken back")

    def _leave(self, backend: Backend, reason: Reason) -> None:
        del self._backends[backend.name]
        if backend.in_flight:
            self._departed.append(backend)
        else:
            self._retired_latency.absorb(backend.latency)
        self._move(backend, Lifecycle.GONE, reason, f"{backend.in_flight} in flight")

    def _move(self, backend: Backend, to: Lifecycle, reason: Reason, message: str) -> None:
        before = backend.lifecycle
        backend.move(to)
        self._tell(backend, Aspect.LIFECYCLE, before, to, reason, message)

    def _tell(
        self,
        backend: Backend,
        aspect: Aspect,
        before: str,
        after: str,
        reason: Reason,
        message: str,
    ) -> None:
        """Every flip ends here, so that the list of available ones can never be stale."""
        self._available = [b for b in self._backends.values() if b.available]
        change = Change(
            service=self.service,
            backend=backend.name,
            aspect=aspect,
            before=str(before),
            after=str(after),
            reason=reason,
            message=message,
            at=self.clock(),
            address=backend.address,
            vm=backend.vm,
        )
        log.info(
            "%s/%s %s → %s (%s: %s)",
            self.service, backend.name, before or "new", after, reason.value, message,
        )  # fmt: skip
        for callback in tuple(self._subscribers):
            try:
                callback(change)
            except Exception:
                # A journal that cannot write must not stop the pool.
                log.exception("a subscriber of pool %s failed", self.service)
        self.on_room()

    # ── health ───────────────────────────────────────────────────────────────────────────────

    def observe(self, report: Report) -> None:
        """Take a probe's word and judge: `rise` good ones in a row, `fall` bad ones in a row."""
        backend = self._backends.get(report.backend)
        if backend is None or backend.address != report.address or not backend.probed:
            return
        if report.timed_out and backend.answered_at > report.asked_at:
            # It answered a request while the probe waited: busy, not dead. Without this, an
            # overloaded fleet fails its probes one after the other and answers nobody at all.
            backend.probe = "busy"
            return
        backend.probe = report.detail or ("ok" if report.ok else "failed")
        if report.ok:
            backend.probe_successes += 1
            backend.probe_failures = backend.connect_failures = 0
            if not backend.healthy and backend.probe_successes >= self.health.rise:
                self._set_health(backend, True, f"probe: {backend.probe}")
        else:
            backend.probe_failures += 1
            backend.probe_successes = 0
            if backend.healthy and backend.probe_failures >= self.health.fall:
                self._set_health(backend, False, f"probe: {backend.probe}")

    def record_failure(self, backend: Backend, error: RequestError) -> None:
        """Count a request's failure; refused connections also speak to the backend's health.

        `fall` of them in a row, without an answer or a good probe between, take it out at once:
        at 60 requests/s a dead VM is gone within 50 ms, where probes alone need `fall` seconds.
        """
        if error.fault is not Fault.BACKEND:
            return
        backend.failures[error.reason] = backend.failures.get(error.reason, 0) + 1
        if isinstance(error, ConnectFailedError):
            backend.connect_failures += 1
            if backend.healthy and backend.connect_failures >= self.health.fall:
                backend.probe_successes = 0
                self._set_health(backend, False, f"{backend.connect_failures} × {error.reason}")

    def _set_health(self, backend: Backend, healthy: bool, message: str) -> None:
        backend.healthy = healthy
        if self._backends.get(backend.name) is not backend:
            return
        words = ("unhealthy", "healthy") if healthy else ("healthy", "unhealthy")
        starting = backend.lifecycle is Lifecycle.STARTING
        if starting and healthy:
            # Not yet told as a health flip: for one that starts, being well is turning ready.
            self._move(backend, Lifecycle.READY, backend.joined_because, message)
        else:
            reason = Reason.HEALTHY if healthy else Reason.UNHEALTHY
            self._tell(backend, Aspect.HEALTH, *words, reason, message)

    # ── leases ───────────────────────────────────────────────────────────────────────────────

    def lease(self, *, exclude: Collection[Backend] = (), key: str | None = None) -> Lease:
        """Pick a backend and reserve it: it is counted when this returns, before any await.

        `exclude` holds those already tried for this request. Raises a NoBackendError saying why;
        AtCapacityError where it is worth waiting for a release.
        """
        available = self._available
        if exclude:
            available = [backend for backend in available if backend not in exclude]
        if not available:
            raise self._nobody(bool(exclude))
        limit = self.max_in_flight
        available = [backend for backend in available if backend.in_flight < limit]
        if not available:
            raise AtCapacityError(f"every backend of {self.service} has {limit} requests running")
        backend = available[0] if len(available) == 1 else self.policy.pick(
            available, self._rng, key
        )  # fmt: skip
        backend.in_flight += 1
        backend.requests_total += 1
        return Lease(self, backend)

    def _nobody(self, tried: bool) -> NoBackendError:
        if self._available and tried:
            return AllTriedError("every available backend was tried")
        if not self._backends:
            return PoolEmptyError(f"service {self.service} has no backend")
        if any(b.lifecycle is Lifecycle.READY for b in self._backends.values()):
            return AllUnhealthyError(f"no backend of {self.service} answers its health checks")
        return NoneReadyError(f"no backend of {self.service} is ready yet")

    def _released(self, backend: Backend) -> None:
        backend.in_flight -= 1
        if backend.lifecycle is Lifecycle.GONE and not backend.in_flight:
            self._departed.remove(backend)
            self._retired_latency.absorb(backend.latency)
        self.on_room()
