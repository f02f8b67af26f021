"""A configuration read again: new rules apply at once, and whatever stays keeps what it has."""

from __future__ import annotations

from typing import Any

import pytest

from lb.config_service import (
    BackendConfig,
    HashConfig,
    HealthConfig,
    OutlierConfig,
    ServiceConfig,
)
from lb.errors import AllUnhealthyError, AtCapacityError
from lb.pool import Change, Pool, Report
from tests.pools import Clock, answers, available, backend, configured, join, probe


def reload(pool: Pool, **settings: Any) -> None:
    pool.configure(ServiceConfig(**settings))


def static(*addresses: str, **weights: int) -> tuple[BackendConfig, ...]:
    return tuple(BackendConfig(address=a, weight=weights.get(a[0], 1)) for a in addresses)


def test_static_backends_come_stay_and_go() -> None:
    pool = configured(backends=static("a:1", "b:1"))
    answers(pool, "b:1", 200)
    held = pool.lease(prefer="a:1")
    told: list[Change] = []
    pool.subscribe(told.append)
    reload(pool, backends=static("b:1", "c:1"))
    assert [(c.backend, c.after) for c in told] == [("a:1", "gone"), ("c:1", "starting")]
    assert available(pool) == ["b:1"], "it keeps its health"
    assert backend(pool, "b:1").requests_total == 1
    assert pool.in_flight == 1, "what runs on one that left goes on"
    held.release()
    assert pool.in_flight == 0


def test_a_new_weight_counts_at_once_and_disturbs_nothing() -> None:
    pool = configured(backends=static("a:1", "b:1"), policy="round_robin")
    answers(pool, "a:1", 200, 500)
    before = backend(pool, "a:1")
    reload(pool, backends=static("a:1", "b:1", a=3), policy="round_robin")
    assert backend(pool, "a:1") is before
    assert (before.weight, before.record.streak) == (3, 1)
    got = [pool.lease().backend.name for _ in range(8)]
    assert got.count("a:1") == 6


def test_what_operators_and_the_fleet_did_is_left_alone() -> None:
    pool = configured(backends=static("a:1", "b:1", "c:1"))
    pool.add_static("x:1")
    join(pool, "web-1")
    pool.drain("b:1")
    pool.remove("c:1")
    reload(pool, backends=static("a:1", "b:1"))
    assert [(b.name, b.lifecycle.value) for b in pool] == [
        ("a:1", "ready"), ("b:1", "draining"), ("x:1", "starting"), ("web-1", "ready"),
    ]  # fmt: skip
    reload(pool)
    assert [b.name for b in pool] == ["x:1", "web-1"]


def test_the_policy_is_a_new_one_only_where_it_changed() -> None:
    pool = configured(policy="round_robin")
    first = pool.policy
    reload(pool, policy="round_robin", slow_start=5.0)
    assert pool.policy is first, "it keeps its turn"
    reload(pool, policy="consistent_hash")
    second = pool.policy
    assert second.name == "consistent_hash"
    reload(pool, policy="consistent_hash", hash=HashConfig(load=2.0))
    assert pool.policy is not second


def test_more_in_flight_is_told_to_who_waits() -> None:
    pool = configured(backends=static("a:1"), max_in_flight=1)
    held = [pool.lease()]
    with pytest.raises(AtCapacityError):
        pool.lease()
    room: list[int] = []
    pool.on_room = lambda: room.append(1)
    reload(pool, backends=static("a:1"), max_in_flight=2)
    assert room
    held.append(pool.lease())
    reload(pool, backends=static("a:1"), max_in_flight=1)
    for _ in range(2):
        with pytest.raises(AtCapacityError):
            pool.lease()
        held.pop().release()
    pool.lease().release()


def test_new_health_rules_judge_the_next_report() -> None:
    pool = configured(backends=static("a:1"), health=HealthConfig(fall=9))
    reload(pool, backends=static("a:1"), health=HealthConfig(fall=1))
    pool.observe(Report("a:1", "a:1", False, "503"))
    assert available(pool) == []


def test_try_anyway_may_be_switched_on_when_it_is_needed() -> None:
    pool = configured()
    join(pool, "web-1")
    probe(pool, "web-1", ok=False, times=3)
    with pytest.raises(AllUnhealthyError):
        pool.lease()
    reload(pool, none_available="try_anyway")
    assert pool.lease().backend.name == "web-1"
    reload(pool)
    with pytest.raises(AllUnhealthyError):
        pool.lease()


def test_ejections_end_with_the_rules_that_made_them() -> None:
    clock = Clock()
    pool = configured(clock)
    join(pool, "web-1", "web-2", "web-3", "web-4")
    for name in ("web-1", "web-2"):
        answers(pool, name, *[500] * 5)
    assert available(pool) == ["web-3", "web-4"]
    reload(pool, outlier=OutlierConfig(max_share=0.25))
    assert len(available(pool)) == 3
    reload(pool, outlier=OutlierConfig(enabled=False))
    assert len(available(pool)) == 4


def test_a_new_window_counts_anew_and_keeps_an_ejection() -> None:
    clock = Clock()
    pool = configured(clock)
    join(pool, "web-1", "web-2")
    answers(pool, "web-1", 200, 200)
    answers(pool, "web-2", *[500] * 5)
    reload(pool, outlier=OutlierConfig(window=60.0))
    assert available(pool) == ["web-1"]
    record = backend(pool, "web-1").record
    assert record.requests(clock.now) == 0
    answers(pool, "web-1", 200)
    assert record.requests(clock.now + 50) == 1
    join(pool, "web-3")
    answers(pool, "web-3", 200)
    assert backend(pool, "web-3").record.requests(clock.now + 50) == 1


def test_slow_start_may_change_while_one_starts() -> None:
    clock = Clock()
    pool = configured(clock, slow_start=60.0, policy="round_robin")
    join(pool, "web-1")
    clock.now += 100
    join(pool, "web-2")
    pool.lease().release()
    assert backend(pool, "web-2").share == pytest.approx(0.1)
    reload(pool, policy="round_robin")
    pool.lease().release()
    assert backend(pool, "web-2").share == 1.0


def test_the_prober_is_told() -> None:
    pool = configured()
    told: list[HealthConfig] = []
    pool.on_configured = lambda: told.append(pool.health)
    reload(pool, health=HealthConfig(interval=9.0))
    assert told == [HealthConfig(interval=9.0)]
