"""The line before busy backends: whose turn it is, when it ends, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.config import QueueConfig
from lb.errors import (
    AllTriedError,
    AllUnhealthyError,
    AtCapacityError,
    PoolEmptyError,
    QueueFullError,
    QueueTimeoutError,
)
from lb.pool import Lease, Pool
from tests.proxy_harness import PATIENCE_S
from tests.waiters import (
    Requests,
    backend,
    both_busy,
    join,
    make,
    probe,
    settle,
)

# ── whose turn ────────────────────────────────────────────────────────────────────────────────────


async def test_while_there_is_room_nobody_waits() -> None:
    pool, line = make("a", "b", limit=2)
    held = [await line.lease() for _ in range(4)]
    assert len(line) == 0
    assert [b.in_flight for b in pool] == [2, 2]
    for lease in held:
        lease.release()
    assert pool.in_flight == 0


async def test_first_come_first_served() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2", "3", "4")
    assert (requests.served, len(line)) == (["1"], 3)
    await requests.end("1")
    assert (requests.served, len(line)) == (["1", "2"], 2)
    await requests.come("5")
    await requests.end("2", "3", "4", "5")
    assert requests.served == ["1", "2", "3", "4", "5"]
    assert pool.in_flight == 0


async def test_a_freed_place_is_the_first_in_lines_before_anybody_else_can_ask() -> None:
    pool, line = make("a")
    held = await line.lease()
    requests = Requests(line)
    await requests.come("first")
    held.release()
    assert len(line) == 0, "it has its place, though it did not run yet"
    assert pool.in_flight == 1
    with pytest.raises(AtCapacityError):
        pool.lease()
    await requests.come("newcomer")
    assert requests.served == ["first"]
    await requests.end("first", "newcomer")
    assert pool.in_flight == 0


async def test_a_backend_that_joins_serves_those_who_wait() -> None:
    pool, line = make("a", limit=2)
    requests = Requests(line)
    await requests.come(*"123456")
    join(pool, "b")
    await settle()
    assert [requests.on[n] for n in "1234"] == ["a", "a", "b", "b"]
    assert (requests.served, len(line)) == (list("1234"), 2)
    await requests.end(*"123456")
    assert pool.in_flight == 0


async def test_one_that_avoids_the_freed_backend_does_not_hold_up_those_behind_it() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    await requests.come("plain", "last")
    await requests.end("1")
    assert requests.served == ["1", "2", "plain"]
    await requests.end("2")
    assert requests.on["picky"] == "b", "and it keeps its turn for the other"
    await requests.end("plain", "picky", "last")
    assert pool.in_flight == 0


async def test_a_newcomer_takes_the_room_that_the_one_in_line_avoids() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    await requests.end("1")
    assert backend(pool, "a").in_flight == 0
    await requests.come("newcomer")
    assert requests.on["newcomer"] == "a"
    await requests.end("newcomer", "2", "picky")
    assert pool.in_flight == 0


async def test_one_that_avoids_all_that_are_left_is_told_so() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    probe(pool, "b", ok=False)
    await settle()
    with pytest.raises(AllTriedError):
        await requests.tasks["picky"]
    await requests.end("1", "2")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_cancelled_in_the_instant_it_is_told_so_leaves_nothing() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("picky", exclude=[backend(pool, "a")])
    probe(pool, "b", ok=False)
    requests.tasks["picky"].cancel()
    await asyncio.wait([requests.tasks["picky"]])
    assert requests.tasks["picky"].cancelled()
    await requests.end("1", "2")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_those_who_failed_once_go_before_those_who_never_had_a_turn() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("new")
    await requests.come("again", exclude=[backend(pool, "a")])
    await requests.end("2")
    assert requests.served[-1] == "again"
    await requests.end("1")
    assert requests.served[-1] == "new"
    await requests.end("again", "new")
    assert pool.in_flight == 0


async def test_those_who_avoid_other_backends_do_not_hold_up_one_another() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    await requests.come("not a", "nor this", exclude=[backend(pool, "a")])
    await requests.come("not b", exclude=[backend(pool, "b")])
    await requests.end("1")
    assert requests.on["not b"] == "a"
    await requests.end("2")
    assert requests.on["not a"] == "b"
    await requests.end("not a")
    assert requests.on["nor this"] == "b"
    await requests.end("not b", "nor this")
    assert (pool.in_flight, len(line)) == (0, 0)


async def test_all_of_those_that_avoid_what_is_left_are_told_so() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    await both_busy(pool, requests)
    names = ("x", "y", "z")
    await requests.come(*names, exclude=[backend(pool, "a")])
    requests.tasks["y"].cancel()
    probe(pool, "b", ok=False)
    await settle()
    for name in ("x", "z"):
        with pytest.raises(AllTriedError):
            await requests.tasks[name]
    assert requests.tasks["y"].cancelled()
    assert len(line) == 0
    await requests.end("1", "2")


# ── where waiting is no use, or not for now ───────────────────────────────────────────────────────


async def test_an_empty_pool_is_an_answer_and_nothing_to_wait_for() -> None:
    _, line = make()
    with pytest.raises(PoolEmptyError):
        await line.lease()


async def test_a_flip_to_unhealthy_leaves_them_waiting_for_the_flip_back() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2")
    probe(pool, "a", ok=False)
    await requests.end("1")
    assert (requests.served, len(line), pool.in_flight) == (["1"], 1, 0)
    with pytest.raises(AllUnhealthyError):
        await line.lease()
    probe(pool, "a")
    await settle()
    assert requests.served == ["1", "2"]
    await requests.end("2")
    assert pool.in_flight == 0


async def test_they_outlast_the_replacement_of_every_backend() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2")
    pool.remove("a")
    await requests.end("1")
    assert len(line) == 1
    join(pool, "b")
    await settle()
    assert requests.on["2"] == "b"
    await requests.end("2")
    assert pool.in_flight == 0


async def test_a_draining_backends_freed_place_is_nobodys() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2")
    pool.drain("a")
    await requests.end("1")
    assert (len(line), pool.in_flight) == (1, 0)
    pool.ready("a")
    probe(pool, "a")
    await settle()
    assert requests.served == ["1", "2"]
    await requests.end("2")


# ── its bounds ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [0, 1, 3])
async def test_a_full_line_turns_away(length: int) -> None:
    pool, line = make("a", queue=QueueConfig(length=length, max_wait=PATIENCE_S))
    requests = Requests(line)
    names = [str(number) for number in range(length + 1)]
    await requests.come(*names)
    for _ in range(2):
        with pytest.raises(QueueFullError, match=f"{length} requests wait"):
            await line.lease()
    await requests.end(names[0])
    if length:
        assert len(line) == length - 1
        await requests.come("late")
        assert len(line) == length
        await requests.end(*names[1:], "late")
    assert (pool.in_flight, len(line)) == (0, 0)


@pytest.mark.parametrize("max_wait", [0.0, 0.02])
async def test_the_longest_wait_ends_it(max_wait: float) -> None:
    pool, line = make("a", queue=QueueConfig(max_wait=max_wait))
    with await line.lease():
        with pytest.raises(QueueTimeoutError, match=f"no backend was free in {max_wait:g} s"):
            await line.lease()
        assert len(line) == 0
    with await line.lease():
        assert pool.in_flight == 1
    assert pool.in_flight == 0


async def test_a_place_that_comes_in_the_instant_of_the_timeout_is_used_or_given_back() -> None:
    pool, line = make("a", queue=QueueConfig(max_wait=0.02))
    held = await line.lease()
    waiting = asyncio.ensure_future(line.lease())
    await settle()
    time.sleep(0.05)  # noqa: ASYNC251 - so that the release and the timeout meet in one iteration
    held.release()
    try:
        lease = await waiting
    except QueueTimeoutError:
        pass
    else:
        lease.release()
    assert (pool.in_flight, len(line)) == (0, 0)


# ── clients that give up ──────────────────────────────────────────────────────────────────────────

Stage = Callable[["asyncio.Task[None]", Lease], Coroutine[Any, Any, None]]


async def before_it_ran(task: asyncio.Task[None], held: Lease) -> None:
    task.cancel()
    await settle()
    held.release()


async def while_it_waits(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    task.cancel()
    await settle()
    held.release()


async def just_before_its_place_came(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    task.cancel()
    held.release()


async def just_after_its_place_came(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    held.release()
    task.cancel()


async def while_it_is_served(task: asyncio.Task[None], held: Lease) -> None:
    await settle()
    held.release()
    await settle()
    task.cancel()


@pytest.mark.parametrize(
    "stage",
    [
        before_it_ran,
        while_it_waits,
        just_before_its_place_came,
        just_after_its_place_came,
        while_it_is_served,
    ],
)
async def test_given_up_at_any_stage_it_leaves_its_place_to_the_next(stage: Stage) -> None:
    pool, line = make("a")
    held = await line.lease()
    requests = Requests(line)
    leaving = requests.start("leaving")
    requests.start("next")
    await stage(leaving, held)
    await settle()
    assert leaving.cancelled()
    assert requests.served[-1] == "next"
    assert (pool.in_flight, len(line)) == (1, 0)
    await requests.end("next")
    assert pool.in_flight == 0


async def test_from_the_middle_of_the_line_it_leaves_the_order_as_it_was() -> None:
    _, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2", "3", "4")
    requests.tasks["3"].cancel()
    await settle()
    assert len(line) == 2
    await requests.end("1", "2", "4")
    assert requests.served == ["1", "2", "4"]


# ── those who come already checked ───────────────────────────────────────────────────────────────


def come_ready(pool: Pool, name: str) -> None:
    pool.apply(
        ScaleEvent(EventKind.JOIN, "web", name, Reason.QUEUE, address=f"{name}:80", ready=True)
    )


async def test_a_standby_that_wakes_serves_those_who_wait_in_the_same_instant() -> None:
    pool, line = make("a")
    requests = Requests(line)
    await requests.come("1", "2", "3")
    come_ready(pool, "b")
    assert backend(pool, "b").in_flight == 1, "before anything else can run"
    await settle()
    assert (requests.served, requests.on["2"]) == (["1", "2"], "b")
    await requests.end("1", "2", "3")


async def test_one_that_rested_and_is_taken_back_serves_those_who_wait() -> None:
    pool, line = make("a", "b")
    requests = Requests(line)
    pool.apply(ScaleEvent(EventKind.DRAIN, "web", "b", Reason.CPU_LOW))
    await requests.come("1", "2")
    assert (requests.served, len(line)) == (["1"], 1)
    come_ready(pool, "b")
    await settle()
    assert requests.on == {"1": "a", "2": "b"}
    await requests.end("1", "2")
