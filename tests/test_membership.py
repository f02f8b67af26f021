"""The pool's members: who joins, drains, leaves and returns, and who is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.backend import Lifecycle
from lb.change import Aspect
from lb.config_service import BackendConfig, ServiceConfig
from lb.errors import AllUnhealthyError, NoneReadyError, PoolEmptyError, UnknownBackendError
from lb.membership import Membership
from lb.pool import Change, Pool
from tests.pools import Clock, event, join, lifecycle, make, probe


def test_a_story_of_one_replica() -> None:
    pool = make()
    told: list[Change] = []
    pool.subscribe(told.append)
    pool.apply(event(EventKind.JOIN))
    with pytest.raises(NoneReadyError):
        pool.lease()
    probe(pool, "web-1")
    with pool.lease() as lease:
        assert lease.backend.name == "web-1"
        pool.apply(event(EventKind.DRAIN, reason=Reason.CPU_LOW))
        with pytest.raises(NoneReadyError):
            pool.lease()
        assert repr(pool) == "<Pool web: 1 draining; 1 in flight>"
    pool.apply(event(EventKind.LEAVE, reason=Reason.DRAINED))
    with pytest.raises(PoolEmptyError):
        pool.lease()
    assert [(c.before, c.after, c.reason) for c in told] == [
        ("", "starting", Reason.CPU_OVERLOAD),
        ("starting", "ready", Reason.CPU_OVERLOAD),
        ("ready", "draining", Reason.CPU_LOW),
        ("draining", "gone", Reason.DRAINED),
    ]
    assert all(c.aspect is Aspect.LIFECYCLE and c.vm == "web-1" for c in told)


def test_members_alone_know_nothing_of_health_and_leases() -> None:
    members = Membership("web", Clock())
    members.apply(event(EventKind.JOIN, "web-1"))
    members.add_static("10.0.0.1:80", weight=3)
    members.drain("10.0.0.1:80")
    assert repr(members) == "<Pool web: 1 starting, 1 draining; 0 in flight>"
    assert [view.weight for view in members.snapshot()] == [1, 3]


def test_a_weight_said_again_is_the_one_that_counts() -> None:
    pool = make(policy="round_robin")
    join(pool, "web-1", "web-2")

    def share() -> int:
        """How many of ten requests the first one gets."""
        return [pool.lease().backend.name for _ in range(10)].count("web-1")

    assert share() == 5
    pool.apply(ScaleEvent(EventKind.JOIN, "web", "web-1", Reason.OPERATOR, "web-1:80", weight=4))
    assert lifecycle(pool, "web-1") == "ready"
    assert share() == 8
    again = pool.add_static("web-1:80", name="web-1", weight=1)
    assert (again.weight, len(pool)) == (1, 2)
    assert share() == 5


def test_events_are_idempotent_and_unknown_names_are_ignored() -> None:
    pool = make()
    told: list[Change] = []
    pool.subscribe(told.append)
    for kind in (EventKind.DRAIN, EventKind.LEAVE):
        pool.apply(event(kind, "stranger"))
    for _ in range(3):
        pool.apply(event(EventKind.JOIN))
    probe(pool, "web-1")
    pool.apply(event(EventKind.JOIN))
    assert lifecycle(pool, "web-1") == "ready", "a repeated JOIN disturbs nothing"
    for kind in (EventKind.DRAIN, EventKind.LEAVE):
        for _ in range(3):
            pool.apply(event(kind))
    assert [c.after for c in told] == ["starting", "ready", "draining", "gone"]


def test_an_event_for_another_service_changes_nothing() -> None:
    pool = make()
    pool.apply(ScaleEvent(EventKind.JOIN, "other", "x", Reason.BELOW_MIN, "h:1"))
    assert len(pool) == 0


def test_a_join_takes_a_drain_back_and_asks_for_a_probe_first() -> None:
    pool = make()
    join(pool, "web-1")
    pool.apply(event(EventKind.DRAIN))
    pool.apply(event(EventKind.JOIN))
    assert lifecycle(pool, "web-1") == "starting"
    probe(pool, "web-1")
    assert lifecycle(pool, "web-1") == "ready"


def test_a_new_address_is_a_new_backend() -> None:
    pool = make()
    join(pool, "web-1")
    with pool.lease() as lease:
        pool.apply(event(EventKind.JOIN, address="web-1:81"))
        assert lease.backend.lifecycle is Lifecycle.GONE
        assert lifecycle(pool, "web-1") == "starting"
        assert [b.lifecycle for b in pool.load().backends] == ["starting", "gone"]
    assert [b.lifecycle for b in pool.load().backends] == ["starting"]
    probe(pool, "web-1")
    assert lifecycle(pool, "web-1") == "starting", "a late probe of the old address says nothing"


def test_an_operator_adds_drains_readies_and_removes() -> None:
    config = ServiceConfig(backends=(BackendConfig(address="10.0.0.1:80"),))
    pool = Pool.from_config("web", config)
    assert pool.add_static("10.0.0.1:80") is pool.get("10.0.0.1:80")
    assert [view.vm for view in pool.snapshot()] == [None]
    pool.drain("10.0.0.1:80")
    assert lifecycle(pool, "10.0.0.1:80") == "draining"
    pool.ready("10.0.0.1:80")
    assert lifecycle(pool, "10.0.0.1:80") == "starting"
    pool.remove("10.0.0.1:80")
    assert "10.0.0.1:80" not in pool
    for act in (pool.drain, pool.ready, pool.remove):
        with pytest.raises(UnknownBackendError, match="no backend nobody in service web"):
            act("nobody")


def test_a_subscriber_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    pool = make()
    told: list[Change] = []

    def fail(change: Change) -> None:
        raise OSError("disk full")

    pool.subscribe(fail)
    end = pool.subscribe(told.append)
    join(pool, "web-1")
    assert len(told) == 2
    assert "disk full" in caplog.text
    end()
    pool.remove("web-1")
    assert len(told) == 2


# ── those who passed their checks before ─────────────────────────────────────────────────────────


def ready(name: str = "web-1") -> ScaleEvent:
    return replace(event(EventKind.JOIN, name), ready=True)


def test_one_that_passed_its_checks_serves_at_once() -> None:
    pool, told = make(), list[Change]()
    pool.subscribe(told.append)
    pool.apply(ready())
    with pool.lease() as lease:
        assert lease.backend.name == "web-1"
    assert [(c.before, c.after, c.reason) for c in told] == [
        ("", "starting", Reason.CPU_OVERLOAD),
        ("starting", "ready", Reason.CPU_OVERLOAD),
    ]
    pool.apply(ready())
    assert len(told) == 2, "said again, nothing happens"
    probe(pool, "web-1", ok=False, times=3)
    with pytest.raises(AllUnhealthyError):
        pool.lease()
    pool.apply(ready())
    with pytest.raises(AllUnhealthyError):
        pool.lease()


def test_it_is_probed_from_then_on_like_any_other() -> None:
    pool = make(rise=5, fall=2)
    pool.apply(ready())
    (one,) = pool
    assert (one.probed, one.available) == (True, True)
    probe(pool, "web-1", ok=False, times=2)
    assert not one.available
    probe(pool, "web-1", times=4)
    assert not one.available, "having come ready counts once"
    probe(pool, "web-1")
    assert one.available


def test_one_that_was_about_to_be_looked_at_need_not_be() -> None:
    pool = make()
    join(pool, "web-1", ready=False)
    pool.apply(ready())
    assert lifecycle(pool, "web-1") == "ready"
    assert len(pool.available) == 1


def test_one_that_was_about_to_rest_is_taken_back_as_it_was() -> None:
    clock = Clock()
    pool, told = make(clock=clock), list[Change]()
    join(pool, "web-1")
    pool.apply(event(EventKind.DRAIN, reason=Reason.CPU_LOW))
    pool.subscribe(told.append)
    clock.now += 60
    pool.apply(ready())
    assert [(c.before, c.after) for c in told] == [("draining", "ready")]
    (one,) = pool.available
    assert one.available_since == clock.now, "a slow start, if there is one, begins now"


def test_one_that_was_lost_before_it_drained_has_to_pass_its_checks_again() -> None:
    pool = make()
    join(pool, "web-1")
    probe(pool, "web-1", ok=False, times=3)
    pool.apply(event(EventKind.DRAIN, reason=Reason.CPU_LOW))
    pool.apply(ready())
    assert (lifecycle(pool, "web-1"), pool.available) == ("starting", ())
    probe(pool, "web-1")
    assert lifecycle(pool, "web-1") == "ready"


def test_without_that_word_a_drain_that_is_taken_back_is_looked_at() -> None:
    pool = make()
    join(pool, "web-1")
    pool.apply(event(EventKind.DRAIN, reason=Reason.CPU_LOW))
    pool.apply(event(EventKind.JOIN))
    assert (lifecycle(pool, "web-1"), pool.available) == ("starting", ())
