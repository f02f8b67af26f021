"""The line shared by clients, and by backends under one limit: whose turn, at whose cost."""

from __future__ import annotations

import asyncio

import pytest

from lb.config import QueueConfig
from lb.errors import (
    AllUnhealthyError,
    AtCapacityError,
    QueueFullError,
    QueueTimeoutError,
)
from lb.waiting import WaitingLine
from tests.proxy_harness import PATIENCE_S
from tests.waiters import (
    LIMIT,
    PATIENT,
    CountingPool,
    Requests,
    backend,
    join,
    make,
    probe,
    settle,
)

# ── fair by client ────────────────────────────────────────────────────────────────────────────────


async def test_clients_take_turns_however_many_one_of_them_has_waiting() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("0", *(f"greedy {n}" for n in range(5)), client=b"greedy")
    await requests.come("one", client=b"1")
    await requests.come("two", "two more", client=b"2")
    order = ["0", "greedy 0", "one", "two", "greedy 1", "two more", "greedy 2"]
    for name in order:
        assert requests.served[-1] == name
        await requests.end(name)
    await requests.end("greedy 3", "greedy 4")
    assert pool.in_flight == 0


async def test_where_it_is_not_wanted_fair_is_who_came_first() -> None:
    pool, line = make("a", queue=QueueConfig(fair=False, max_wait=PATIENCE_S))
    requests = Requests(line)
    await requests.come("0", "1", "2", client=b"greedy")
    await requests.come("3", client=b"other")
    await requests.come("4", client=b"greedy")
    for name in "01234":
        assert requests.served[-1] == name
        await requests.end(name)
    assert pool.in_flight == 0


async def test_a_full_line_makes_room_at_the_cost_of_who_fills_it() -> None:
    pool, line = make("a", queue=QueueConfig(length=3, max_wait=PATIENCE_S))
    requests = Requests(line)
    await requests.come("0", "1", "2", "3", client=b"greedy")
    with pytest.raises(QueueFullError, match="3 requests wait already"):
        await line.lease(client=b"greedy")
    await requests.come("modest", client=b"modest")
    with pytest.raises(QueueFullError, match="most who wait in it are this client's"):
        await requests.tasks["3"]
    assert len(line) == 3
    with pytest.raises(QueueFullError):
        await line.lease(client=b"modest")  # greedy has 2, modest would have 2
    with pytest.raises(QueueFullError):
        await line.lease(client=b"greedy")
    for name in ("0", "1", "modest", "2"):
        await requests.end(name)
    assert requests.served == ["0", "1", "modest", "2"]
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_a_plain_line_makes_no_room() -> None:
    pool, line = make("a", queue=QueueConfig(length=2, fair=False, max_wait=PATIENCE_S))
    requests = Requests(line)
    await requests.come("0", "1", "2", client=b"greedy")
    with pytest.raises(QueueFullError):
        await line.lease(client=b"modest")
    await requests.end("0", "1", "2")
    assert pool.in_flight == 0


async def test_cancelled_in_the_instant_it_makes_room_it_leaves_nothing() -> None:
    pool, line = make("a", queue=QueueConfig(length=2, max_wait=PATIENCE_S))
    requests = Requests(line)
    await requests.come("0", "1", "2", client=b"greedy")
    requests.start("modest", client=b"modest")
    await asyncio.sleep(0)
    requests.tasks["2"].cancel()
    await settle()
    assert requests.tasks["2"].cancelled()
    assert len(line) == 2
    await requests.end("0", "1", "modest")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_new_rules_hold_for_those_who_come() -> None:
    pool, line = make("a", queue=QueueConfig(length=1, max_wait=PATIENCE_S))
    requests = Requests(line)
    await requests.come("0", "1")
    line.config = QueueConfig(length=2, max_wait=0.02)
    with pytest.raises(QueueTimeoutError):
        await line.lease()
    line.config = QueueConfig(length=0)
    with pytest.raises(QueueFullError):
        await line.lease(client=b"other")
    await requests.end("0")
    assert requests.served == ["0", "1"], "and who waited already waits on"
    await requests.end("1")
    assert pool.in_flight == 0


async def test_a_wait_of_ones_own_goes_before_the_configured_one() -> None:
    _, line = make("a")
    with await line.lease():
        with pytest.raises(QueueTimeoutError, match=r"in 0\.01 s"):
            await line.lease(max_wait=0.01)
        assert len(line) == 0


# ── a limit on all backends together ──────────────────────────────────────────────────────────────


async def test_at_the_limit_requests_wait_though_backends_have_room() -> None:
    pool, line = make("a", "b", limit=4)
    line.limit = lambda: 2
    requests = Requests(line)
    await requests.come("1", "2", "3")
    assert (pool.in_flight, len(line)) == (2, 1)
    with pytest.raises(AtCapacityError):
        line.lease_now()
    await requests.end("1")
    assert requests.served == ["1", "2", "3"]
    assert pool.in_flight == 2
    await requests.end("2", "3")
    line.lease_now().release()
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_where_the_limit_has_grown_those_in_line_go_before_a_newcomer() -> None:
    pool, line = make("a", limit=9)
    limit = 1
    line.limit = lambda: limit
    requests = Requests(line)
    await requests.come("1", "2", "3")
    limit = 3
    await requests.come("new")
    assert (requests.served, len(line)) == (["1", "2", "3"], 1)
    await requests.end("1")
    assert requests.served[-1] == "new"
    await requests.end("2", "3", "new")
    assert pool.in_flight == 0


async def test_where_nobody_is_well_the_limit_is_not_the_answer() -> None:
    pool, line = make("a", limit=9)
    line.limit = lambda: 1
    with await line.lease():
        probe(pool, "a", ok=False)
        with pytest.raises(AllUnhealthyError):
            await line.lease()


async def test_where_all_are_sick_and_tried_all_the_same_the_limit_holds() -> None:
    pool, line = make("a", limit=9)
    pool.none_available = "try_anyway"
    line.limit = lambda: 1
    requests = Requests(line)
    await requests.come("1")
    probe(pool, "a", ok=False)
    await requests.come("2")
    assert (requests.served, len(line)) == (["1"], 1)
    await requests.end("1", "2")
    assert pool.in_flight == 0


async def test_a_retry_waits_for_the_limit_as_well() -> None:
    pool, line = make("a", "b", limit=9)
    line.limit = lambda: 1
    requests = Requests(line)
    await requests.come("1")
    await requests.come("again", exclude=[backend(pool, "a")])
    assert len(line) == 1
    await requests.end("1")
    assert requests.on["again"] == "b"
    await requests.end("again")


async def test_how_long_it_has_been_standing() -> None:
    now = 100.0
    pool, line = make("a")
    pool.clock = lambda: now
    requests = Requests(line)
    await requests.come("1")
    assert line.standing_s == 0
    await requests.come("2")
    now = 103.0
    await requests.come("3")
    await requests.end("1")
    assert line.standing_s == 3, "since the first of them came, though it is served by now"
    await requests.end("2")
    assert line.standing_s == 0
    now = 110.0
    await requests.come("4")
    now = 111.0
    assert line.standing_s == 1
    await requests.end("3", "4")


# ── while places are given ────────────────────────────────────────────────────────────────────────


async def test_a_release_costs_the_same_however_many_wait() -> None:
    pool = CountingPool()
    for name in ("a", "b"):
        join(pool, name)
    line = WaitingLine(pool, QueueConfig(length=1000, max_wait=PATIENCE_S))
    held = [await line.lease() for _ in range(2 * LIMIT)]
    failed_on = [backend(pool, "a")]
    requests = Requests(line)
    for number in range(300):
        requests.start(f"new {number}", client=b"%d" % (number % 50))
        requests.start(f"again {number}", exclude=failed_on)
    await settle()
    assert len(line) == 600
    for lease in held:
        before = pool.asked
        lease.release()
        # each kind asks until it gets none: one place is two askings, and one of the other kind
        assert pool.asked - before <= 3
    assert len(line) == 600 - 2 * LIMIT
    for task in requests.tasks.values():
        task.cancel()
    await asyncio.wait(requests.tasks.values())
    assert (len(line), pool.in_flight) == (0, 0)


async def test_a_backend_that_comes_back_while_places_are_given_serves_those_before() -> None:
    pool = CountingPool()
    for name in ("a", "b", "c"):
        join(pool, name)
    probe(pool, "b", ok=False)
    line = WaitingLine(pool, PATIENT)
    held = [await line.lease() for _ in range(2 * LIMIT)]
    requests = Requests(line)
    await requests.come("not a", exclude=[backend(pool, "a")])
    await requests.come("plain")
    assert len(line) == 2
    # noticed when the second of them is looked after: b has room for the first one, too
    pool.notices = [lambda: probe(pool, "b"), lambda: None]
    next(lease for lease in held if lease.backend.name == "a").release()
    await settle()
    assert sorted(requests.served) == ["not a", "plain"]
    assert requests.on["not a"] == "b"
    for lease in held:
        lease.release()
    await requests.end(*requests.served)
    assert (pool.in_flight, pool.came_back) == (0, len(pool.given))
