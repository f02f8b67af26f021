"""Owns a service's backends: which of them are well, who is ejected, who gets a request. No I/O.

Mutable state beside the membership's: `_slate` (who may be picked; None once a bit flipped, made
anew by the next who asks, and told of each request, so that a lease looks at a few only), `_due`
(when shares grow or an ejection ends), `_ejected` (some of whom may have left or drained since).
Every change happens between two awaits of somebody else: nothing here is async.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Collection
from typing import Final, Literal

from mypy_extensions import mypyc_attr

from autoscale.model import Answers, Reason
from lb.backend import NEVER, Backend, Lifecycle
from lb.balance import Policies, policy_named
from lb.change import Aspect
from lb.change import Change as Change
from lb.change import Report as Report
from lb.config_service import HealthConfig, OutlierConfig, ServiceConfig
from lb.errors import (
    AllDoubtedError,
    AllLostError,
    AllTriedError,
    AllUnhealthyError,
    AtCapacityError,
    BodyCutError,
    BodyTimeoutError,
    ConnectFailedError,
    ConnectTimeoutError,
    Fault,
    NoBackendError,
    NoneReadyError,
    PoolEmptyError,
    RequestError,
    UpstreamResetError,
)
from lb.latency import bucket_of
from lb.lease import Lease as Lease
from lb.membership import Membership
from lb.outlier import (
    COMPARE_S,
    Grounds,
    below_the_rest,
    fails_alone,
    most_ejected,
    speaks_against,
)
from lb.slate import NoChoice, Policy, Rng, Slate
from lb.slow_start import STEPS, warmth

_CLOSED_DOOR: Final = (ConnectFailedError, UpstreamResetError, BodyCutError)
"""How a request finds that nobody is there any more. QEMU's forwarded port accepts for a guest that
does not listen, and resets. A stale connection may be nobody's fault, and may be the first sign."""
LOST_S: Final = 10.0
"""So long after the first sign that nobody is there requests may wait for whoever comes instead: a
hypervisor tells of a death within three seconds, and a standby or a copy takes two more."""
_LATE: Final = (ConnectTimeoutError, BodyTimeoutError)


@mypyc_attr(allow_interpreted_subclasses=True)  # tests count the leases of one
class Pool(Membership):
    """The backends of one service.

    `health` supplies the rise and fall counts. `max_in_flight` is each backend's limit. `clock` is
    monotonic seconds. `rng` only breaks ties and spreads load. `policies` makes policies.
    """

    def __init__(
        self,
        service: str,
        policy: Policy,
        health: HealthConfig,
        clock: Callable[[], float] = time.monotonic,
        rng: Rng | None = None,
        max_in_flight: int = sys.maxsize,
        policies: Policies = policy_named,
    ) -> None:
        super().__init__(service, clock)
        self._policies = policies
        # settings; `configure` changes them
        self.policy = policy
        self.health = health
        self.max_in_flight = max_in_flight
        self.outlier = OutlierConfig()
        self.slow_start_s = 0.0
        self.none_available: Literal["refuse", "try_anyway"] = "refuse"
        self._policy_from: object = None
        self.on_configured: Callable[[], None] = lambda: None
        """Called when settings changed: the prober may have planned by the old ones."""
        self.on_doubt: Callable[[Backend], None] = lambda _backend: None
        """Called with one that serves and may be dead: the prober is to ask it now, instead of at
        its next time, unless it is being asked."""
        self.on_probed: Callable[[Report], None] = lambda _report: None
        """Called after each report was judged: other workers may have doubted that backend."""
        # state
        self._rng: Rng = rng if rng is not None else random.Random()
        self._slate: Slate[Backend] | None = None
        self._offered: frozenset[Backend] = frozenset()
        self._due = math.inf
        self._ejected: set[Backend] = set()
        self._compare_at = -math.inf
        self.ejections: dict[str, int] = dict.fromkeys(map(str, Grounds), 0)
        """So many so far, by their grounds."""

    @classmethod
    def from_config(
        cls,
        service: str,
        config: ServiceConfig,
        clock: Callable[[], float] = time.monotonic,
        rng: Rng | None = None,
        policies: Policies = policy_named,
    ) -> Pool:
        """A pool with the configured policy, rules and static backends."""
        policy = policies(config.policy, config.hash)
        pool = cls(service, policy, config.health, clock, rng, policies=policies)
        pool.configure(config)
        return pool

    def configure(self, config: ServiceConfig) -> None:
        """Go on with these settings. Backends that stay keep their health, what was learned of
        them and their requests; a policy that stays keeps its turn."""
        if self._policy_from != (config.policy, config.hash):
            self._policy_from = (config.policy, config.hash)
            self.policy = self._policies(config.policy, config.hash)
        if config.outlier.window != self.outlier.window:
            for backend in self:
                backend.record.measure(config.outlier.window)
        self.health = config.health
        self.outlier = config.outlier
        self.max_in_flight = config.max_in_flight
        self.slow_start_s = config.slow_start
        self.none_available = config.none_available
        self._take_static(config.backends)
        self._stale()
        self._flipped()
        self.on_configured()
        self.on_room()

    # ── who may be picked ────────────────────────────────────────────────────────────────────

    @property
    def available(self) -> tuple[Backend, ...]:
        return tuple(backend for backend in self._backends.values() if backend.available)

    def _stale(self) -> None:
        self._slate = None

    def _renew(self, now: float) -> Slate[Backend]:
        members = [backend for backend in self._backends.values() if backend.available]
        if not members and self.none_available == "try_anyway":
            members = [b for b in self._backends.values() if b.lifecycle is Lifecycle.READY]
        starting_slowly = False
        for backend in members:
            part = warmth(now, backend.available_since, self.slow_start_s)
            backend.share = backend.weight * part
            starting_slowly = starting_slowly or part < 1
        self._due = now + self.slow_start_s / STEPS if starting_slowly else math.inf
        if (end := self.reinstates_at) is not None:
            self._due = min(self._due, end)
        self._offered = frozenset(members)
        slate = self.policy.slate(members, self._rng) if len(members) > 1 else NoChoice(members)
        for backend in members:
            if backend.in_flight >= self.max_in_flight:
                slate.close(backend)
        self._slate = slate
        return slate

    @property
    def offers(self) -> bool:
        """Is there anybody to ask, were it not full?"""
        return bool((self._slate or self._renew(self.clock())).members)

    # ── leases ───────────────────────────────────────────────────────────────────────────────

    def lease(
        self,
        *,
        exclude: Collection[Backend] = (),
        key: bytes | None = None,
        prefer: str | None = None,
    ) -> Lease:
        """Pick a backend and reserve it: it is counted when this returns, before any await.

        `exclude` holds those already tried for this request. `key` is what `consistent_hash` goes
        by. `prefer` names the backend that is taken where it may be, whatever the policy. Raises a
        NoBackendError saying why; AtCapacityError where it is worth waiting for a release.
        """
        return Lease(self, self.reserve(self.clock(), exclude, key, prefer))

    def reserve(
        self,
        now: float,
        exclude: Collection[Backend] = (),
        key: bytes | None = None,
        prefer: str | None = None,
    ) -> Backend:
        """What a lease is of, for who makes one only where it is needed: to be released once."""
        slate = self._slate
        if slate is None or now >= self._due:
            self.tick(now)
            slate = self._slate or self._renew(now)
        if exclude:
            backend = self._pick_another(slate, exclude, now, key, prefer)
        elif len(slate.closed) == len(slate.members):
            raise self._nobody(slate, exclude)
        elif prefer is None:
            backend = slate.pick(now, key)
        else:
            backend = self._preferred(slate, prefer) or slate.pick(now, key)
        backend.in_flight += 1
        backend.requests_total += 1
        self._running += 1
        slate.took(backend)
        if backend.in_flight >= self.max_in_flight:
            slate.close(backend)
        return backend

    def _pick_another(
        self,
        slate: Slate[Backend],
        exclude: Collection[Backend],
        now: float,
        key: bytes | None,
        prefer: str | None,
    ) -> Backend:
        """Those tried are closed for this pick alone: they are few, the others may be many."""
        tried = {b for b in exclude if b in self._offered and b not in slate.closed}
        for backend in tried:
            slate.close(backend)
        try:
            if len(slate.closed) == len(slate.members):
                raise self._nobody(slate, exclude)
            return self._preferred(slate, prefer) or slate.pick(now, key)
        finally:
            for backend in tried:
                slate.reopen(backend)

    def _preferred(self, slate: Slate[Backend], name: str | None) -> Backend | None:
        """None where it may not be picked."""
        backend = self._backends.get(name) if name is not None else None
        return backend if backend in self._offered and backend not in slate.closed else None

    def _nobody(self, slate: Slate[Backend], exclude: Collection[Backend]) -> NoBackendError:
        if slate.members:
            if all(backend in exclude for backend in slate.members):
                if any(backend.doubted_at > NEVER for backend in slate.members):
                    return AllDoubtedError("every available backend was tried, and may be gone")
                return AllTriedError("every available backend was tried")
            return AtCapacityError(
                f"every backend of {self.service} has {self.max_in_flight} requests running"
            )
        if not self._backends:
            return PoolEmptyError(f"service {self.service} has no backend")
        ready = [b for b in self._backends.values() if b.lifecycle is Lifecycle.READY]
        if ready:
            kind, since = AllUnhealthyError, self.clock() - LOST_S
            if all(b.doubted_at >= since and (b.refusals or b.connect_failures) for b in ready):
                kind = AllLostError
            return kind(f"no backend of {self.service} answers its health checks")
        return NoneReadyError(f"no backend of {self.service} is ready yet")

    def release(self, backend: Backend) -> None:
        """One that was reserved is free again."""
        backend.in_flight -= 1
        self._running -= 1
        slate = self._slate
        if slate is not None and backend in self._offered:
            slate.gave(backend)
            if slate.closed and backend in slate.closed and backend.in_flight < self.max_in_flight:
                slate.reopen(backend)
        if backend.lifecycle is Lifecycle.GONE:
            self.settle(backend)
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
            backend.probe_failures = backend.connect_failures = backend.refusals = 0
            if NEVER < backend.doubted_at <= report.asked_at:
                backend.doubted_at = NEVER
                if backend.healthy:
                    self.on_room()  # who waited to hear so may ask it again
            if not backend.healthy and backend.probe_successes >= self.health.rise:
                self._set_health(backend, True, f"probe: {backend.probe}")
        else:
            backend.probe_failures += 1
            backend.probe_successes = 0
            backend.refusals = backend.refusals + 1 if report.certain else 0
            if backend.healthy and self._condemned(backend, certain=report.certain):
                backend.doubted_at = max(backend.doubted_at, report.asked_at)
                self._set_health(backend, False, f"probe: {backend.probe}", dead=report.silent)
        if backend.healthy and (
            backend.doubted_at > NEVER or (backend.refusals and backend.vm is not None)
        ):
            self.on_doubt(backend)
        self.on_probed(report)

    def _condemned(self, backend: Backend, *, certain: bool) -> bool:
        """`fall` bad probes in a row: a busy guest answers late, and comes back. But where a
        request and then the probe met a closed door, or where a VM says no twice, there is nothing
        to wait for: it is out within one more question, however large `fall` is."""
        if backend.probe_failures >= self.health.fall:
            return True
        return certain and (
            backend.doubted_at > NEVER or (backend.refusals >= 2 and backend.vm is not None)
        )

    def _vouched(self, backend: Backend) -> None:
        backend.probe_failures = backend.connect_failures = backend.refusals = 0
        self._set_health(backend, True, "it passed its checks before")

    def _set_health(
        self, backend: Backend, healthy: bool, message: str, *, dead: bool = False
    ) -> None:
        backend.healthy = healthy
        if self._backends.get(backend.name) is not backend:
            return
        if healthy:
            backend.available_since = self.clock()
        words = ("unhealthy", "healthy") if healthy else ("healthy", "unhealthy")
        starting = backend.lifecycle is Lifecycle.STARTING
        if starting and healthy:
            # Not yet told as a health flip: for one that starts, being well is turning ready.
            self._move(backend, Lifecycle.READY, backend.joined_because, message)
        else:
            reason = Reason.HEALTHY if healthy else Reason.UNHEALTHY
            self._tell(backend, Aspect.HEALTH, *words, reason, message, dead=dead)

    # ── what requests tell ───────────────────────────────────────────────────────────────────

    def record_answer(
        self, backend: Backend, seconds: float, now: float, status: int, bucket: int | None = None
    ) -> None:
        """Count a whole answer: it proves the backend alive, and may speak against it. `bucket`:
        that of its duration (`latency.bucket_of`), where it is known."""
        backend.connect_failures = 0
        backend.doubted_at = NEVER
        backend.answered_at = now
        backend.latency.count_in(bucket_of(seconds) if bucket is None else bucket, seconds, now)
        if status >= 500 and speaks_against(status):
            self._count_bad(backend, now)
            return
        # Failing is quick: a backend must not look fast for it.
        if self.policy.goes_by_latency:
            backend.peak.record(seconds, now)
        backend.record.good(now)

    def record_failure(self, backend: Backend, error: RequestError) -> None:
        """Count a request's failure; refused connections also speak to the backend's health.

        `fall` of them in a row, without an answer or a good probe between, take it out at once:
        the first one asks for a probe at once, and where that is refused too, it is out by then.
        """
        if isinstance(error, _CLOSED_DOOR) and not isinstance(error, _LATE) and backend.healthy:
            backend.doubted_at = self.clock()
            self.on_doubt(backend)
        if error.fault is not Fault.BACKEND:
            return
        backend.failures[error.reason] = backend.failures.get(error.reason, 0) + 1
        if isinstance(error, ConnectFailedError):
            backend.connect_failures += 1
            if backend.healthy and backend.connect_failures >= self.health.fall:
                self._refused(backend, backend.connect_failures, error.reason)
        self._count_bad(backend, self.clock())

    def doubt(self, backend: Backend, refused: int) -> None:
        """Another worker's request met a closed door there, and `refused` of its connections in a
        row were: the same follows as here. What it counted is told apart from this."""
        if self._backends.get(backend.name) is not backend or not backend.healthy:
            return
        backend.doubted_at = self.clock()
        backend.connect_failures = max(backend.connect_failures, refused)
        self.on_doubt(backend)
        if refused >= self.health.fall:
            self._refused(backend, refused, ConnectFailedError.reason)

    def _refused(self, backend: Backend, number: int, reason: str) -> None:
        backend.probe_successes = 0
        self._set_health(backend, False, f"{number} × {reason}", dead=True)

    def _count_bad(self, backend: Backend, now: float) -> None:
        """A failure is what can make an outlier; who did well meanwhile needs no look."""
        rules, record = self.outlier, backend.record
        record.bad(now)
        backend.bad_total += 1
        if not rules.enabled:
            return
        # At every so-manieth in a row: where everything fails, nobody is looked at each time.
        if backend.available and record.streak % rules.consecutive_5xx == 0:
            others = (b.record for b in self._backends.values() if b.available and b is not backend)
            if fails_alone(record, others, rules, now):
                self._eject(backend, Grounds.CONSECUTIVE, f"{record.streak} failures in a row", now)
        if now < self._compare_at:
            return
        self._compare_at = now + COMPARE_S
        rivals = [(b, b.record) for b in self._backends.values() if b.available]
        for outlier, rate, middle in below_the_rest(rivals, rules, now):
            words = f"{rate:.0%} of its answers are good, {middle:.0%} of the others'"
            self._eject(outlier, Grounds.SUCCESS_RATE, words, now)

    def answers(self, name: str) -> Answers | None:
        """What requests told of this backend since it joined; None where it is none."""
        backend = self._backends.get(name)
        return backend.answers() if backend is not None else None

    # ── ejection ─────────────────────────────────────────────────────────────────────────────

    @property
    def reinstates_at(self) -> float | None:
        """When the next ejection ends: call `tick` then. None where nobody is ejected."""
        ends = [b.record.until for b in self._ejected if b.record.until is not None]
        return min(ends, default=None)

    def tick(self, now: float) -> None:
        """End the ejections whose time has come. Who waits for a backend is told then; a lease
        also looks by itself."""
        self._stale()
        over = [b for b in self._ejected if b.record.until is not None and b.record.until <= now]
        self._reinstate(over, "its time is over", now)

    def _eject(self, backend: Backend, grounds: Grounds, why: str, now: float) -> None:
        if len(self._spared()) >= most_ejected(self.outlier, self._healthy()):
            return
        length_s = backend.record.eject(self.outlier, now)
        self._ejected.add(backend)
        self.ejections[grounds] += 1
        message = f"{why}; for {length_s:g} s"
        self._tell(backend, Aspect.EJECTION, "serving", "ejected", Reason.EJECTED, message)

    def _reinstate(self, backends: Collection[Backend], why: str, now: float) -> None:
        # All of them before any is told: who is told may ask for a backend at once.
        for backend in backends:
            self._ejected.discard(backend)
            backend.record.reinstate(now)
            backend.available_since = now
        for backend in backends:
            self._tell(backend, Aspect.EJECTION, "ejected", "reinstated", Reason.REINSTATED, why)

    def _healthy(self) -> int:
        """How many would serve if nobody were ejected."""
        return sum(backend.passes for backend in self._backends.values())

    def _spared(self) -> list[Backend]:
        """Those of them that are ejected."""
        return [backend for backend in self._ejected if backend.passes and backend.ejected]

    def _flipped(self) -> None:
        """Where others failed or left, so many may be ejected no longer: those whose time ends
        first come back. So an ejection is never what leaves a service without a backend."""
        if not self._ejected:
            return
        self._ejected = {b for b in self._ejected if b.ejected and b.name in self._backends}
        spared = sorted(self._spared(), key=lambda backend: backend.record.until or 0.0)
        surplus = len(spared) - most_ejected(self.outlier, self._healthy())
        if surplus > 0:
            self._reinstate(spared[:surplus], "too few others are left", self.clock())

    def _add(self, backend: Backend) -> Backend:
        backend.record.measure(self.outlier.window)
        return super()._add(backend)
