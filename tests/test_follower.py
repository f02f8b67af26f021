"""A pool that is told who belongs to it: it becomes what the newest state says, judges nobody."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb.backend import NEVER, Lifecycle
from lb.change import Aspect, Change
from lb.config import ServiceConfig
from lb.errors import (
    AllLostError,
    AllTriedError,
    ConnectFailedError,
    FirstByteTimeoutError,
    NoneReadyError,
    PoolEmptyError,
)
from lb.follower import Follower
from lb.pool_state import BackendState, PoolState

Told = dict[int, tuple[str, str, int, bool]]


def state(number: int = 1, **fields: Any) -> BackendState:
    values: dict[str, Any] = {
        "id": number,
        "name": f"web-{number}",
        "address": f"web-{number}:80",
        "host": "local",
        "vm": f"web-{number}",
        "weight": 1,
        "lifecycle": "ready",
        "healthy": True,
        "available_since": 5.0,
        "doubted_at": None,
        "refused": False,
        "well_at": None,
        "slot": None,
        "dead": False,
        **fields,
    }
    return BackendState(**values)


def told(version: int, *backends: BackendState, lost: tuple[int, ...] = ()) -> PoolState:
    return PoolState(version, "web", 0.0, backends, lost)


def follower(*backends: BackendState, **config: Any) -> Follower:
    pool = Follower("web", ServiceConfig.model_validate(config))
    pool.follow(told(1, *backends))
    return pool


def shape(pool: Follower) -> Told:
    return {
        number: (backend.name, backend.lifecycle.value, backend.weight, backend.healthy)
        for number, backend in pool.ids.items()
        if backend.lifecycle is not Lifecycle.GONE
    }


def expected(newest: PoolState) -> Told:
    return {one.id: (one.name, one.lifecycle, one.weight, one.healthy) for one in newest.backends}


# ── following ────────────────────────────────────────────────────────────────────────────────────


@st.composite
def stories(draw: st.DrawFn) -> list[PoolState]:
    """States as a first process may tell them: who comes under a name again is another one."""
    found: list[PoolState] = []
    here: dict[str, int] = {}
    known = 0
    for version in range(1, draw(st.integers(2, 7))):
        before, here = here, {}
        backends = []
        for name in draw(st.lists(st.sampled_from("abcd"), unique=True)):
            known += 1
            stays = name in before and draw(st.booleans())
            here[name] = before[name] if stays else known
            backends.append(
                state(
                    here[name],
                    name=name,
                    weight=draw(st.integers(1, 3)),
                    lifecycle=draw(st.sampled_from(["starting", "ready", "draining"])),
                    healthy=draw(st.booleans()),
                )
            )
        found.append(told(version, *backends))
    return found


@settings(max_examples=100)
@given(stories(), st.randoms(use_true_random=False))
def test_in_whatever_order_they_come_it_becomes_the_newest(
    story: list[PoolState], rng: random.Random
) -> None:
    order = [*story, *rng.sample(story, len(story))]
    rng.shuffle(order)
    pool = Follower("web", ServiceConfig())
    newest = 0
    for one in order:
        assert pool.follow(one) is (one.version > newest)
        newest = max(newest, one.version)
        assert shape(pool) == expected(story[newest - 1])
        assert {backend.name for backend in pool} == {b.name for b in story[newest - 1].backends}


@given(stories())
def test_a_state_says_the_same_after_the_way_through_json(story: list[PoolState]) -> None:
    for one in story:
        assert PoolState.from_message(json.loads(json.dumps(one.as_message()))) == one


def test_the_same_told_again_changes_nothing() -> None:
    pool = follower(state(1), state(2))
    flips: list[Change] = []
    pool.subscribe(flips.append)
    assert not pool.follow(told(1))
    assert not pool.follow(told(0))
    assert pool.follow(told(2, state(1), state(2)))
    assert flips == []
    assert len(pool.available) == 2


def test_one_that_moves_is_another_one_under_the_same_name() -> None:
    pool = follower(state(1))
    lease = pool.lease()
    pool.follow(told(2, state(9, name="web-1", address="web-1:81")))
    assert [(backend.address, backend.in_flight) for backend in pool] == [("web-1:81", 0)]
    assert pool.in_flight == 1
    assert pool.ids[1] is lease.backend
    lease.release()
    pool.forget(1)
    assert set(pool.ids) == {9}


def test_static_backends_come_by_the_state_alone() -> None:
    pool = follower(backends=["127.0.0.1:1"])
    assert len(pool) == 0
    pool.follow(told(2, state(1, name="127.0.0.1:1")))
    pool.configure(ServiceConfig(policy="round_robin"))
    assert pool.policy.name == "round_robin"
    assert len(pool.available) == 1


def test_shares_grow_from_when_the_first_process_saw_it_well() -> None:
    pool = follower(state(1, available_since=7.5), state(2, available_since=None))
    assert [backend.available_since for backend in pool] == [7.5, NEVER]


# ── what follows from a flip ─────────────────────────────────────────────────────────────────────


def flips(pool: Follower, *states: PoolState) -> list[tuple[Aspect, str, bool]]:
    found: list[Change] = []
    end = pool.subscribe(found.append)
    for one in states:
        pool.follow(one)
    end()
    return [(change.aspect, change.after, change.dead) for change in found]


@pytest.mark.parametrize("dead", [False, True])
def test_whoever_runs_there_hears_whether_it_is_dead(dead: bool) -> None:
    pool = follower(state(1), state(2))
    ill = state(1, healthy=False, dead=dead)
    assert flips(pool, told(2, ill, state(2))) == [(Aspect.HEALTH, "unhealthy", dead)]
    lost = (1,) if dead else ()
    assert flips(pool, told(3, state(2), lost=lost)) == [(Aspect.LIFECYCLE, "gone", dead)]


def test_who_waits_hears_of_a_new_one_of_a_doubt_that_ended_and_of_longer_waiting() -> None:
    pool = follower()
    calls: list[int] = []
    pool.on_room = lambda: calls.append(len(pool.available))
    pool.follow(told(2, state(1)))
    assert calls[-1] == 1
    calls.clear()
    pool.follow(PoolState(3, "web", 5.0, (state(1),), ()))
    assert calls
    assert pool.awaited_s == 5.0


def test_a_drain_that_was_taken_back_between_two_states_makes_it_start_anew() -> None:
    pool = follower(state(1))
    pool.follow(told(2, state(1, lifecycle="starting", healthy=False)))
    assert (shape(pool)[1][1], pool.available) == ("starting", ())
    with pytest.raises(NoneReadyError):
        pool.lease()
    pool.follow(told(3, state(1)))
    assert len(pool.available) == 1


def test_what_drains_gets_nothing_more_and_keeps_what_it_has() -> None:
    pool = follower(state(1))
    with pool.lease() as lease:
        pool.follow(told(2, state(1, lifecycle="draining")))
        assert lease.backend.in_flight == 1
        with pytest.raises(NoneReadyError):
            pool.lease()
    pool.follow(told(3))
    with pytest.raises(PoolEmptyError):
        pool.lease()


# ── what it does not judge, and what it does ─────────────────────────────────────────────────────


def test_closed_doors_are_told_and_change_nothing_here() -> None:
    pool = follower(state(1), health={"fall": 2})
    doubts: list[tuple[str, int]] = []
    pool.on_doubt = lambda backend: doubts.append((backend.name, backend.connect_failures))
    for _ in range(4):
        with pool.lease() as lease:
            lease.failed(ConnectFailedError("refused"))
    assert [name for name, _ in doubts] == ["web-1"] * 4
    (backend,) = pool
    assert backend.available
    assert backend.connect_failures == 4
    assert backend.failures == {ConnectFailedError.reason: 4}


def test_a_good_probe_after_the_doubt_ends_it_and_an_older_one_does_not() -> None:
    pool = follower(state(1))
    with pool.lease() as lease:
        lease.failed(ConnectFailedError("refused"))
    (backend,) = pool
    at = backend.doubted_at
    assert at > NEVER
    pool.follow(told(2, state(1, well_at=at - 1)))
    assert (backend.doubted_at, backend.connect_failures) == (at, 1)
    pool.follow(told(3, state(1, well_at=at)))
    assert (backend.doubted_at, backend.connect_failures) == (NEVER, 0)


def test_one_that_is_well_again_begins_with_no_refusals() -> None:
    pool = follower(state(1), state(2))
    backend = pool.ids[1]
    pool.record_failure(backend, ConnectFailedError("refused"))
    pool.follow(told(2, state(1, healthy=False, dead=True), state(2)))
    assert backend.connect_failures == 1
    pool.follow(told(3, state(1), state(2)))
    assert (backend.available, backend.connect_failures) == (True, 0)


def test_where_all_are_lost_it_says_so_as_the_first_process_would() -> None:
    pool = follower(state(1))
    (backend,) = pool
    gone = {"healthy": False, "dead": True, "doubted_at": pool.clock(), "refused": True}
    pool.follow(told(2, state(1, **gone)))
    with pytest.raises(AllLostError):
        pool.lease()
    assert not backend.available


def test_outliers_it_finds_by_its_own_requests_and_keeps_out_while_told_of_others() -> None:
    pool = follower(*map(state, range(1, 4)))
    worst = pool.ids[1]
    for _ in range(5):
        for backend in pool:
            error = FirstByteTimeoutError("late")
            pool.record_failure(backend, error) if backend is worst else pool.record_answer(
                backend, 0.1, pool.clock(), 200
            )
    assert worst.ejected
    pool.follow(told(2, *map(state, range(1, 5))))
    assert worst.ejected
    assert {backend.name for backend in pool.available} == {"web-2", "web-3", "web-4"}
    with pytest.raises(AllTriedError):
        pool.lease(exclude=list(pool.available))
