"""One backend: its lifecycle table, its health and ejection bits, its counters.

Three separate questions are kept apart: admission (`lifecycle`: may it get new requests?), health
(`healthy`: does it answer its probes?) and ejection (`ejected`: did requests fare so badly there
that it is spared them for a while?). Policies ask none of them; they ask `available`. Does no I/O,
and judges nothing: the pool does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from autoscale.model import Answers, BackendLoad, Reason
from lb.errors import BadTransitionError
from lb.latency import BOUNDS_S, Latency
from lb.outlier import Record
from lb.peak import PeakLatency

NEVER: Final = float("-inf")


class Lifecycle(StrEnum):
    STARTING = "starting"
    """Known, and not yet seen to answer its readiness probe."""
    READY = "ready"
    DRAINING = "draining"
    """No new request; those running finish."""
    GONE = "gone"


# draining → starting is the operator's (or the fleet's) change of mind. It does not lead straight
# to ready: a draining backend is not probed, so what we knew of its health is old. Only whoever
# vouches for it, as the fleet does for one that it suspended while it was ready, takes that step.
TRANSITIONS: Final[dict[Lifecycle, frozenset[Lifecycle]]] = {
    Lifecycle.STARTING: frozenset({Lifecycle.READY, Lifecycle.DRAINING, Lifecycle.GONE}),
    Lifecycle.READY: frozenset({Lifecycle.DRAINING, Lifecycle.GONE}),
    Lifecycle.DRAINING: frozenset({Lifecycle.STARTING, Lifecycle.READY, Lifecycle.GONE}),
    Lifecycle.GONE: frozenset(),
}


@dataclass(frozen=True, slots=True)
class BackendView:
    """One backend at one instant, as `GET /pool` shows it. Frozen; `as_dict` is its JSON."""

    name: str
    address: str
    lifecycle: str
    healthy: bool
    weight: int
    in_flight: int
    requests_total: int
    failures_total: int
    latency_p50_s: float | None
    """Of the last ten seconds; None without a request in them."""
    latency_p99_s: float | None
    vm: str | None
    host: str
    rate: float
    """Answers per second over the last five seconds."""
    available: bool
    probe: str
    """What the last probe said, such as `200` or `refused`; empty before the first."""
    cpu: float | None = None
    """Utilisation, 0 … about 1, where the caller of `snapshot` supplied it."""
    ejected: bool = False
    """Requests failed there while the others did better: it gets none for a while."""

    def as_dict(self) -> dict[str, str | int | float | bool | None]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Backend:
    """One upstream address. Mutable, and mutated by the pool and its leases alone."""

    __slots__ = (
        "address",
        "answered_at",
        "available_since",
        "bad_total",
        "connect_failures",
        "doubted_at",
        "elsewhere",
        "failures",
        "healthy",
        "host",
        "in_flight",
        "joined_because",
        "latency",
        "lifecycle",
        "name",
        "peak",
        "probe",
        "probe_failures",
        "probe_successes",
        "record",
        "refusals",
        "requests_total",
        "share",
        "vm",
        "weight",
    )

    def __init__(
        self,
        name: str,
        address: str,
        *,
        host: str = "",
        vm: str | None = None,
        weight: int = 1,
        joined_because: Reason = Reason.OPERATOR,
    ) -> None:
        if weight < 1:
            raise ValueError(f"weight of {name} must be at least 1, not {weight}")
        # who it is
        self.name = name
        self.address = address
        self.host = host
        self.vm = vm
        self.weight = weight
        self.joined_because = joined_because
        self.share = float(weight)
        """The weight that counts: less of it while the backend starts slowly."""
        # admission
        self.lifecycle = Lifecycle.STARTING
        self.available_since = NEVER
        # health: one bit, and the streaks that flip it
        self.healthy = False
        self.probe = ""
        self.probe_successes = 0
        self.probe_failures = 0
        self.connect_failures = 0
        self.refusals = 0
        """Probes in a row that were answered by a certain no."""
        self.doubted_at = NEVER
        """When a request last met a closed door, unless it was heard well since."""
        # ejection: what requests told
        self.record = Record()
        # counters
        self.in_flight = 0
        self.elsewhere = 0
        """Requests that may be running on it on other workers; those here alone are `in_flight`."""
        self.answered_at = NEVER
        self.requests_total = 0
        self.bad_total = 0
        """Answers that speak against it, and requests that failed there without one."""
        self.failures: dict[str, int] = {}
        self.latency = Latency()
        self.peak = PeakLatency()

    @property
    def passes(self) -> bool:
        """Ready, and its probes pass. It may be ejected all the same."""
        return self.healthy and self.lifecycle is Lifecycle.READY

    @property
    def ejected(self) -> bool:
        return self.record.until is not None

    @property
    def available(self) -> bool:
        """May it get a new request? The one question policies ask."""
        return self.passes and not self.ejected

    @property
    def probed(self) -> bool:
        """Draining is not failing: a backend that gets no new request is not asked."""
        lifecycle = self.lifecycle
        return lifecycle is Lifecycle.READY or lifecycle is Lifecycle.STARTING

    @property
    def running(self) -> int:
        """Requests on all workers."""
        return self.in_flight + self.elsewhere

    @property
    def failures_total(self) -> int:
        return sum(self.failures.values())

    def move(self, to: Lifecycle) -> None:
        """Take one step of the lifecycle. Raises BadTransitionError where the table has none."""
        if to not in TRANSITIONS[self.lifecycle]:
            raise BadTransitionError(
                f"{self.name}: {self.lifecycle} → {to} is not a step of a backend"
            )
        self.lifecycle = to

    def forget_health(self) -> None:
        """Back to not knowing: the next probes decide."""
        self.healthy = False
        self.probe_successes = self.probe_failures = self.connect_failures = self.refusals = 0
        self.doubted_at = NEVER

    def answers(self) -> Answers:
        """What requests told of it, since it joined."""
        return Answers(
            self.latency.count + self.failures_total,
            self.bad_total,
            self.latency.counts(),
            BOUNDS_S,
        )

    def load(self) -> BackendLoad:
        return BackendLoad(
            name=self.name,
            lifecycle=self.lifecycle.value,
            healthy=self.healthy,
            in_flight=self.running,
            vm=self.vm,
            ejected=self.ejected,
        )

    def view(self, now: float, cpu: float | None = None) -> BackendView:
        p50, p99 = self.latency.quantiles((0.5, 0.99), now)
        return BackendView(
            name=self.name,
            address=self.address,
            lifecycle=self.lifecycle.value,
            healthy=self.healthy,
            weight=self.weight,
            in_flight=self.running,
            requests_total=self.requests_total,
            failures_total=self.failures_total,
            latency_p50_s=p50,
            latency_p99_s=p99,
            vm=self.vm,
            host=self.host,
            rate=self.latency.rate(now),
            available=self.available,
            probe=self.probe,
            cpu=cpu,
            ejected=self.ejected,
        )

    def __repr__(self) -> str:
        health = "healthy" if self.healthy else "unhealthy"
        if self.ejected:
            health += ", ejected"
        return f"<Backend {self.name} {self.lifecycle}, {health}, {self.in_flight} in flight>"
