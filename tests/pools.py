"""Pools for tests: on a clock that stands still, with events and probes as their sources send
them, and answers as a proxy counts them."""

from __future__ import annotations

import random
import sys
from typing import Any

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.backend import Backend
from lb.balance import policy_named
from lb.config_service import HealthConfig, ServiceConfig
from lb.errors import UpstreamResetError
from lb.pool import Pool, Report


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(
    rise: int = 1,
    fall: int = 3,
    policy: str = "least_requests",
    limit: int = sys.maxsize,
    clock: Clock | None = None,
) -> Pool:
    return Pool(
        "web",
        policy_named(policy),
        HealthConfig(rise=rise, fall=fall),
        clock=clock or Clock(),
        rng=random.Random(1),
        max_in_flight=limit,
    )


def event(
    kind: EventKind, name: str = "web-1", address: str = "", reason: Reason = Reason.CPU_OVERLOAD
) -> ScaleEvent:
    return ScaleEvent(kind, "web", name, reason, address=address or f"{name}:80", host="local")


def join(pool: Pool, *names: str, ready: bool = True) -> None:
    for name in names:
        pool.apply(event(EventKind.JOIN, name))
        if ready:
            probe(pool, name)


def probe(pool: Pool, name: str, ok: bool = True, times: int = 1) -> None:
    for _ in range(times):
        pool.observe(Report(name, f"{name}:80", ok, "200" if ok else "refused"))


def available(pool: Pool) -> list[str]:
    return [backend.name for backend in pool.available]


def lifecycle(pool: Pool, name: str) -> str:
    backend = pool.get(name)
    return backend.lifecycle.value if backend else "gone"


def configured(clock: Clock | None = None, **settings: Any) -> Pool:
    """A pool by its service's configuration; whatever is static is ready."""
    pool = Pool.from_config("web", ServiceConfig(**settings), clock or Clock(), random.Random(1))
    for one in pool:
        pool.observe(Report(one.name, one.address, True, "200"))
    return pool


def backend(pool: Pool, name: str) -> Backend:
    found = pool.get(name)
    assert found is not None
    return found


def answers(pool: Pool, name: str, *statuses: int, seconds: float = 0.01) -> None:
    """Requests that this backend gets and answers so; 0: it resets the connection."""
    others = [one for one in pool if one.name != name]
    for status in statuses:
        with pool.lease(exclude=others) as lease:
            if status:
                lease.answered(seconds, pool.clock(), status)
            else:
                lease.failed(UpstreamResetError("reset"))
