"""Ejection as the pool carries it out: who is spared for how long, who is told, and never all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from autoscale.model import Reason
from lb.change import Aspect
from lb.config_service import HealthConfig, OutlierConfig, QueueConfig
from lb.errors import ClientGoneError, ConnectFailedError, StaleConnectionError
from lb.pool import Change, Pool
from lb.waiting import WaitingLine
from tests.pools import Clock, answers, available, backend, configured, join, lifecycle, probe


def make(clock: Clock, *names: str, **outlier: Any) -> Pool:
    pool = configured(
        clock, policy="round_robin", outlier=OutlierConfig(**outlier), health=HealthConfig(fall=3)
    )
    join(pool, *names)
    return pool


def fail(pool: Pool, name: str) -> None:
    """As many bad answers as its ejection takes, while the others do well."""
    for one in pool.available:
        if one.name != name:
            answers(pool, one.name, 200, 200)
    answers(pool, name, *[500] * 5)


def ejected(pool: Pool) -> list[str]:
    return [view.name for view in pool.snapshot() if view.ejected]


def test_a_story_of_one_outlier() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2", "web-3")
    told: list[Change] = []
    pool.subscribe(told.append)
    answers(pool, "web-1", 200, 200)
    answers(pool, "web-3", 200, 200)
    answers(pool, "web-2", 200, 500, 502, 503, 504)
    assert available(pool) == ["web-1", "web-2", "web-3"]
    answers(pool, "web-2", 0)
    assert available(pool) == ["web-1", "web-3"]
    view = pool.snapshot()[1]
    assert (view.lifecycle, view.healthy, view.ejected, view.available) == (
        "ready", True, True, False,
    )  # fmt: skip
    assert repr(pool) == "<Pool web: 2 ready, 1 ejected; 0 in flight>"
    assert pool.ejections == {"consecutive_5xx": 1, "success_rate": 0}
    clock.now += 9.9
    assert {pool.lease().backend.name for _ in range(6)} == {"web-1", "web-3"}
    clock.now += 0.1
    assert {pool.lease().backend.name for _ in range(3)} == {"web-1", "web-2", "web-3"}
    assert [(c.aspect, c.before, c.after, c.reason) for c in told] == [
        (Aspect.EJECTION, "serving", "ejected", Reason.EJECTED),
        (Aspect.EJECTION, "ejected", "reinstated", Reason.REINSTATED),
    ]
    assert told[0].message == "5 failures in a row; for 10 s"


def test_each_further_time_is_twice_as_long() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2")
    for length_s in (10, 20, 40):
        fail(pool, "web-2")
        assert ejected(pool) == ["web-2"]
        assert pool.reinstates_at == clock.now + length_s
        clock.now += length_s
        pool.tick(clock.now)
        assert ejected(pool) == []
    clock.now += 60
    fail(pool, "web-2")
    assert pool.reinstates_at == clock.now + 10, "a minute of doing well is six periods"


def test_where_every_backend_fails_the_application_is_broken_and_nobody_is_ejected() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2", "web-3", "web-4")
    for one in pool:
        answers(pool, one.name, *[200] * 50)
    for _ in range(100):
        clock.now += 0.1
        for name in ("web-1", "web-2", "web-3", "web-4"):
            answers(pool, name, 500)
    assert ejected(pool) == []


def test_one_that_fails_while_nothing_comes_from_the_others_is_ejected() -> None:
    """It fails at once and so looks idle: what all policies but the others' answers fall for."""
    pool = make(Clock(), "web-1", "web-2")
    with pool.lease(prefer="web-1"):
        answers(pool, "web-2", *[502] * 5)
        assert ejected(pool) == ["web-2"]


def test_so_many_may_be_ejected_and_no_more() -> None:
    pool = make(Clock(), "web-1", "web-2", "web-3", "web-4", "web-5")
    for name in ("web-1", "web-2", "web-3", "web-4"):
        fail(pool, name)
    assert ejected(pool) == ["web-1", "web-2"], "half of five"
    assert pool.ejections["consecutive_5xx"] == 2


def test_the_only_one_is_never_ejected() -> None:
    pool = make(Clock(), "web-1")
    answers(pool, "web-1", *[500] * 500)
    assert available(pool) == ["web-1"]


@pytest.mark.parametrize("how", ["drain", "remove", "fail"])
def test_one_comes_back_at_once_where_too_few_others_are_left(how: str) -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2")
    told: list[Change] = []
    fail(pool, "web-2")
    pool.subscribe(told.append)
    if how == "fail":
        probe(pool, "web-1", ok=False, times=3)
    else:
        getattr(pool, how)("web-1")
    assert available(pool) == ["web-2"]
    assert told[-1].message == "too few others are left"
    assert pool.reinstates_at is None


def test_of_two_ejected_the_one_that_is_due_first_comes_back() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2", "web-3", "web-4")
    fail(pool, "web-2")
    clock.now += 5
    fail(pool, "web-1")
    pool.remove("web-4")
    assert ejected(pool) == ["web-1"]


def test_a_success_rate_far_below_the_others_ejects() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2", "web-3", min_requests=20)
    for _ in range(20):
        answers(pool, "web-1", 200)
        answers(pool, "web-3", 200)
        answers(pool, "web-2", 500, 500, 200, 200)
    assert ejected(pool) == [], "rates are compared once a second at most"
    clock.now += 1
    answers(pool, "web-2", 500)
    assert ejected(pool) == ["web-2"]
    assert pool.ejections == {"consecutive_5xx": 0, "success_rate": 1}


def test_client_faults_and_stale_connections_never_count() -> None:
    pool = make(Clock(), "web-1", "web-2")
    answers(pool, "web-1", 200, 200)
    for error in (ClientGoneError("gone"), StaleConnectionError("closed as we used it")):
        for _ in range(20):
            with pool.lease(prefer="web-2") as lease:
                lease.failed(error)
    answers(pool, "web-2", *[404, 429, 501, 505] * 5)
    assert ejected(pool) == []


def test_refused_connections_make_it_unhealthy_first_and_count_beside() -> None:
    pool = make(Clock(), "web-1", "web-2")
    for _ in range(3):
        with pool.lease(prefer="web-2") as lease:
            lease.failed(ConnectFailedError("refused"))
    view = pool.snapshot()[1]
    assert (view.healthy, view.ejected) == (False, False)
    probe(pool, "web-2")
    answers(pool, "web-2", 0, 0)
    assert ejected(pool) == ["web-2"], "five failures without a good answer between"


def test_probes_neither_end_nor_prolong_an_ejection() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2")
    fail(pool, "web-2")
    probe(pool, "web-2", times=5)
    assert ejected(pool) == ["web-2"]
    probe(pool, "web-2", ok=False, times=3)
    clock.now += 10
    pool.tick(clock.now)
    view = pool.snapshot()[1]
    assert (view.healthy, view.ejected, view.available) == (False, False, False)


def test_what_was_running_when_it_was_ejected_changes_nothing() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2")
    running = [pool.lease(prefer="web-2") for _ in range(20)]
    fail(pool, "web-2")
    end = pool.reinstates_at
    for lease in running:
        lease.answered(0.1, clock.now, 500)
        lease.release()
    assert pool.reinstates_at == end
    clock.now += 10
    pool.tick(clock.now)
    answers(pool, "web-2", *[500] * 4)
    assert ejected(pool) == [], "four since it is back"


def test_a_drain_taken_back_is_a_new_beginning() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2")
    fail(pool, "web-2")
    pool.drain("web-2")
    assert ejected(pool) == []
    pool.ready("web-2")
    probe(pool, "web-2")
    assert available(pool) == ["web-1", "web-2"]
    assert lifecycle(pool, "web-2") == "ready"


def test_one_that_comes_back_starts_slowly() -> None:
    clock = Clock()
    pool = configured(clock, policy="round_robin", slow_start=30.0)
    join(pool, "web-1", "web-2")
    clock.now += 100
    fail(pool, "web-2")
    clock.now += 10
    assert backend(pool, "web-2").ejected
    got = []
    for _ in range(110):
        with pool.lease() as lease:
            got.append(lease.backend.name)
    assert got.count("web-2") == pytest.approx(10, abs=1), "a tenth beside one"


def test_the_fleet_is_told_that_an_ejected_one_is_up() -> None:
    pool = make(Clock(), "web-1", "web-2")
    fail(pool, "web-2")
    load = pool.load().of("web-2")
    assert load is not None
    assert (load.healthy, load.passes, load.available) == (True, True, False)


def test_the_first_request_after_its_time_may_go_there() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2")
    fail(pool, "web-2")
    clock.now += 10
    with pool.lease(prefer="web-2") as lease:
        assert lease.backend.name == "web-2"


def test_one_that_drains_fails_or_has_left_is_not_judged() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2", "web-3", min_requests=5)
    for name in ("web-1", "web-2"):
        answers(pool, name, *[200] * 10)
    running = [pool.lease(prefer="web-3") for _ in range(30)]
    pool.drain("web-3")
    for lease in running[:10]:
        lease.answered(0.1, clock.now, 500)
    pool.ready("web-3")
    for lease in running[10:20]:
        lease.answered(0.1, clock.now, 500)
    clock.now += 2
    answers(pool, "web-2", 500)
    pool.remove("web-3")
    clock.now += 2
    for lease in running[20:]:
        lease.answered(0.1, clock.now, 500)
    assert sum(pool.ejections.values()) == 0


def test_one_that_leaves_while_it_is_ejected_is_heard_of_no_more() -> None:
    clock = Clock()
    pool = make(clock, "web-1", "web-2", "web-3", "web-4")
    fail(pool, "web-4")
    pool.remove("web-4")
    told: list[Change] = []
    pool.subscribe(told.append)
    assert pool.reinstates_at is None
    clock.now += 60
    pool.tick(clock.now)
    assert told == []


def test_switched_off_nobody_is_ejected() -> None:
    pool = make(Clock(), "web-1", "web-2", enabled=False)
    fail(pool, "web-2")
    assert ejected(pool) == []


async def test_who_waits_is_served_by_one_that_comes_back() -> None:
    clock = Clock()
    pool = configured(clock, max_in_flight=1)
    join(pool, "web-1", "web-2")
    line = WaitingLine(pool, QueueConfig(max_wait=20))
    fail(pool, "web-2")
    held = await line.lease()
    waiting = asyncio.ensure_future(line.lease())
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.now += 10
    pool.tick(clock.now)
    lease = await waiting
    assert lease.backend is backend(pool, "web-2")
    lease.release()
    held.release()
