"""What the first process tells the others, and the sums it makes: peers are lists of messages."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.model import EventKind, Reason
from lb import counted
from lb.config import ProxyConfig, ServiceConfig
from lb.counted import Elsewhere
from lb.follower import Follower
from lb.lead import Lead, Peer
from lb.metrics import NOWHERE, Metrics
from lb.outlier import Grounds
from lb.pool import Pool, Report
from lb.pool_state import PoolState
from lb.request_metrics import RequestMetrics
from lb.site import Site
from lb.tally import Tally
from tests.pools import Clock, event, make, probe
from tests.pools import join as join_pool
from tests.proxy_harness import until


@dataclass
class Other:
    """A worker as the first process sees it: it does what a test says."""

    lead: Lead
    number: int = 1
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peer = Peer(self.number, lambda packed: self.messages.append(json.loads(packed)))
        self.messages.append(json.loads(json.dumps(self.lead.settings({}))))
        self.lead.join(self.peer)

    @property
    def settings(self) -> dict[str, Any]:
        return self.messages[0]

    @property
    def states(self) -> Iterator[PoolState]:
        for message in self.messages:
            if message["kind"] == "settings":
                yield from map(PoolState.from_message, message["pools"])
            elif message["kind"] == "pool":
                yield PoolState.from_message(message)

    @property
    def newest(self) -> PoolState:
        return max(self.states, key=lambda state: state.version)

    def id_of(self, name: str) -> int:
        """Of the last that had this name."""
        found = [one.id for state in self.states for one in state.backends if one.name == name]
        return found[-1]

    def report(
        self,
        version: int | None = None,
        running: dict[str, int] | None = None,
        totals: dict[str, float] | None = None,
        answered: dict[str, Any] | None = None,
        **now: Any,
    ) -> None:
        """Of service `web`; `running` by the name of a backend, and `answered` are its totals."""
        if version is None:
            version = max(message.get("version", 0) for message in self.messages)
        answered = answered or {}
        backends = {
            str(self.id_of(name)): {
                "totals": answered.get(name, {}),
                "running": number,
                "answered_at": None,
            }
            for name, number in (running or {}).items()
        }
        serial = str(self.settings["serials"]["web"])
        message = {
            "kind": "report",
            "version": version,
            "services": {serial: {"totals": totals or {}, "now": Elsewhere(**now).as_dict()}},
            "backends": backends,
        }
        self.lead.report(self.peer, message)


@dataclass
class Stage:
    pool: Pool
    site: Site
    lead: Lead
    metrics: Metrics

    def running(self, name: str) -> int:
        load = self.pool.load().of(name)
        return load.in_flight if load is not None else 0


def stage(*names: str, awaited: float = 0.0, tally: Tally | None = None) -> Stage:
    pool = make()
    join_pool(pool, *names)
    metrics = Metrics()
    site = Site("web", ServiceConfig(), ProxyConfig(), pool, metrics.service(pool))
    site.line.awaited = lambda: awaited
    lead = Lead(metrics.unrouted, Clock(), tally)
    lead.follow(site)
    return Stage(pool, site, lead, metrics)


def leave(pool: Pool, name: str, reason: Reason = Reason.SURPLUS) -> None:
    pool.apply(event(EventKind.LEAVE, name, reason=reason))


def drain(pool: Pool, name: str) -> None:
    pool.apply(event(EventKind.DRAIN, name))


# ── telling ──────────────────────────────────────────────────────────────────────────────────────


async def test_many_changes_in_one_turn_are_one_state_and_its_version_is_new() -> None:
    on = stage("a", "b")
    one = Other(on.lead)
    assert [b.name for b in one.newest.backends] == ["a", "b"]
    drain(on.pool, "a")
    join_pool(on.pool, "c")
    await asyncio.sleep(0)
    assert [message["kind"] for message in one.messages] == ["settings", "pool"]
    assert [(b.name, b.lifecycle) for b in one.newest.backends] == [
        ("a", "draining"), ("b", "ready"), ("c", "ready"),
    ]  # fmt: skip
    assert one.newest.version > one.settings["version"]


operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["join", "drain", "leave", "good", "bad"]),
                  st.sampled_from("abc")),
        st.tuples(st.just("crash"), st.sampled_from("abc")),
        st.tuples(st.just("turn"), st.just("")),
        st.tuples(st.just("new peer"), st.just("")),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60)
@given(operations)
def test_every_follower_has_what_the_first_process_has(story: list[tuple[str, str]]) -> None:
    async def play() -> None:
        on = stage("a")
        others = [Other(on.lead)]
        for word, name in story:
            match word:
                case "join":
                    on.pool.apply(event(EventKind.JOIN, name))
                case "drain":
                    drain(on.pool, name)
                case "leave":
                    leave(on.pool, name)
                case "crash":
                    leave(on.pool, name, Reason.CRASHED)
                case "turn":
                    await asyncio.sleep(0)
                case "new peer":
                    others.append(Other(on.lead, len(others) + 1))
                case _:
                    probe(on.pool, name, ok=word == "good")
        await asyncio.sleep(0)
        for other in others:
            pool = Follower("web", ServiceConfig())
            for state in other.states:
                pool.follow(state)
            assert {
                (b.name, b.address, b.lifecycle, b.healthy, b.weight, b.available_since)
                for b in pool
            } == {
                (b.name, b.address, b.lifecycle, b.healthy, b.weight, b.available_since)
                for b in on.pool
            }

    asyncio.run(play())


async def test_a_weight_and_longer_waiting_are_told_at_the_next_beat() -> None:
    on = stage("a")
    one = Other(on.lead)
    on.lead.beat()
    await asyncio.sleep(0)
    assert len(one.messages) == 1, "nothing is new"
    on.pool.add_static("a:80", name="a", weight=3)
    on.lead.beat()
    await asyncio.sleep(0)
    assert one.newest.backends[0].weight == 3
    on.site.line.awaited = lambda: 8.0
    on.lead.beat()
    await asyncio.sleep(0)
    assert one.newest.awaited_s == 8.0


async def test_after_a_state_that_took_long_to_tell_the_next_waits_its_turn() -> None:
    ticks = iter(range(1000))
    on = stage("a")
    on.lead._clock = lambda: next(ticks) / 100  # each look at it takes 10 ms
    one = Other(on.lead)
    drain(on.pool, "a")
    await asyncio.sleep(0)
    assert one.newest.backends[0].lifecycle == "draining"
    on.pool.ready("a")
    on.pool.add_static("b:80", name="b")
    await asyncio.sleep(0)
    assert len(one.newest.backends) == 1
    await until(lambda: len(one.newest.backends) == 2)
    assert len(one.messages) == 3, "two changes, one state"


async def test_ejections_stay_at_home() -> None:
    on = stage("a", "b", "c")
    one = Other(on.lead)
    (backend, *_) = on.pool
    on.pool._eject(backend, Grounds.CONSECUTIVE, "why", on.pool.clock())
    await asyncio.sleep(0)
    assert backend.ejected
    assert len(one.messages) == 1


async def test_who_crashed_is_among_the_lost_and_who_left_is_not() -> None:
    on = stage("a", "b", "c")
    one = Other(on.lead)
    lost = one.id_of("a")
    leave(on.pool, "a", Reason.CRASHED)
    leave(on.pool, "b")
    await asyncio.sleep(0)
    assert one.newest.lost == (lost,)
    assert [b.name for b in one.newest.backends] == ["c"]


async def test_whoever_forgets_a_service_tells_its_end() -> None:
    on = stage("a")
    one = Other(on.lead)
    on.lead.forget("web")
    assert one.messages[-1] == {"kind": "drop", "service": "web"}
    one.report(totals={"arrived": 5})
    assert on.site.counters.arrived == 0
    join_pool(on.pool, "b")
    await asyncio.sleep(0)
    assert one.messages[-1]["kind"] == "drop"


async def test_a_version_is_applied_once_all_have_said_so() -> None:
    on = stage("a")
    one, two = Other(on.lead, 1), Other(on.lead, 2)
    version = on.lead.version
    assert not await on.lead.applied(version, 0.0)
    waiting = asyncio.ensure_future(on.lead.applied(version, 20.0))
    await asyncio.sleep(0)
    one.report(version)
    await asyncio.sleep(0)
    assert not waiting.done()
    on.lead.part(two.peer)
    assert await waiting


# ── draining: nobody's request is lost ───────────────────────────────────────────────────────────


async def test_a_drain_is_over_once_everybody_knows_and_has_nothing_there() -> None:
    on = stage("a", "b")
    one, two = Other(on.lead, 1), Other(on.lead, 2)
    for other in (one, two):
        other.report(running={"a": 0})
    assert on.running("a") == 0
    drain(on.pool, "a")
    assert on.running("a") == 2, "in this very instant each of them may send one there"
    before = on.lead.version - 1
    await asyncio.sleep(0)
    one.report(before, running={"a": 0})
    assert on.running("a") == 2, "it said so before it knew"
    one.report(running={"a": 3})
    assert on.running("a") == 4
    two.report()
    assert on.running("a") == 3
    one.report(running={"a": 0})
    assert on.running("a") == 0
    assert on.running("b") == 0


async def test_one_that_dies_holds_no_drain_up_and_one_that_has_just_come_does() -> None:
    on = stage("a")
    one = Other(on.lead, 1)
    one.report(running={"a": 2})
    drain(on.pool, "a")
    await asyncio.sleep(0)
    assert on.running("a") == 2
    late = Other(on.lead, 2)
    assert on.running("a") == 3, "it has not applied anything yet"
    on.lead.part(one.peer)
    assert on.running("a") == 1
    late.report()
    assert on.running("a") == 0


async def test_a_drain_after_the_settings_of_a_newcomer_is_not_taken_for_known() -> None:
    on = stage("a")
    one = Other(on.lead, 1)
    join_pool(on.pool, "b")
    two = Other(on.lead, 2)
    drain(on.pool, "a")
    two.report()
    one.report()
    assert on.running("a") == 2
    await asyncio.sleep(0)
    two.report()
    assert on.running("a") == 1
    assert two.newest.backends[0].lifecycle == "draining"


async def test_a_drain_taken_back_and_begun_again_is_a_new_one() -> None:
    on = stage("a")
    one = Other(on.lead)
    drain(on.pool, "a")
    await asyncio.sleep(0)
    one.report()
    assert on.running("a") == 0
    on.pool.ready("a")
    assert on.running("a") == 0
    drain(on.pool, "a")
    assert on.running("a") == 1


async def test_one_that_left_is_listed_until_its_last_request_ends_wherever_it_runs() -> None:
    on = stage("a", "b")
    one = Other(on.lead)
    one.report(running={"a": 2}, answered={"a": {"latency 40": 3, "latency sum": 0.5}})
    leave(on.pool, "a")
    await asyncio.sleep(0)
    assert on.running("a") == 2
    assert on.pool.retired_latency().count == 3
    one.report(running={"a": 0}, answered={"a": {"latency 40": 5, "latency sum": 0.9}})
    assert on.pool.load().of("a") is None
    assert on.pool.retired_latency().count == 5
    # nothing of it is left here either
    assert on.lead._backends.keys() == {one.id_of("b")}
    assert not on.lead._closed


async def test_what_is_told_late_of_one_that_left_still_counts() -> None:
    on = stage("a")
    one = Other(on.lead)
    with on.pool.lease() as lease:
        leave(on.pool, "a")
        await asyncio.sleep(0)
        assert on.running("a") == 2
    assert on.running("a") == 1
    assert lease.backend.in_flight == 0
    one.report(running={"a": 0}, answered={"a": {"latency 40": 1, "latency sum": 0.1}})
    assert on.running("a") == 0
    assert on.pool.retired_latency().count == 1


# ── what all count together ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally.make(3)
    yield made
    made.close()


async def test_each_backend_has_a_slot_and_a_later_one_finds_it_empty(tally: Tally) -> None:
    on = stage("a", "b", tally=tally)
    one = Other(on.lead)
    slots = {b.name: b.slot for b in one.newest.backends}
    assert len(set(slots.values())) == 2
    slot = slots["a"]
    assert slot is not None
    theirs = Tally(os.dup(tally.file), 1, 3)
    theirs.put(slot, 4)
    theirs.close()
    leave(on.pool, "a")
    join_pool(on.pool, "c")
    await asyncio.sleep(0)
    assert slot not in {b.slot for b in one.newest.backends}, "somebody may still write there"
    one.report()
    join_pool(on.pool, "d")
    await asyncio.sleep(0)
    assert [b.slot for b in one.newest.backends if b.name == "d"] == [slot]
    assert tally.running(slot) == 0


async def test_what_ended_while_it_was_out_is_not_counted_when_it_is_back(tally: Tally) -> None:
    on = stage("a", "b", tally=tally)
    lease = on.pool.lease(prefer="a")
    slot = on.lead.slot_of(lease.backend)
    assert slot is not None
    on.lead._put(lease.backend)
    assert tally.running(slot) == 1
    probe(on.pool, "a", ok=False, times=3)
    lease.release()
    on.lead.beat()
    assert tally.running(slot) == 0


async def test_who_dies_has_nothing_running(tally: Tally) -> None:
    on = stage("a", tally=tally)
    other = Other(on.lead, 2)
    theirs = Tally(os.dup(tally.file), 2, 3)
    theirs.put(other.newest.backends[0].slot or 0, 5)
    theirs.close()
    (backend,) = on.pool
    assert tally.running(on.lead.slot_of(backend) or 0) == 5
    on.lead.part(other.peer)
    assert tally.running(on.lead.slot_of(backend) or 0) == 0
    on.lead.close()
    drain(on.pool, "a")
    assert backend.in_flight == tally.running(on.lead.slot_of(backend) or 0) == 0


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────


def some_totals(requests: int) -> dict[str, float]:
    counters = RequestMetrics("web")
    counters.arrived = requests
    for _ in range(requests):
        counters.finished("GET", 200, 0.1, 0.0)
    return dict(counted.of_requests(counters))


async def test_what_they_counted_and_have_is_summed_up_and_never_goes_down() -> None:
    on = stage("a")
    one, two = Other(on.lead, 1), Other(on.lead, 2)
    on.site.counters.finished("GET", 200, 0.1, 0.0)
    on.site.counters.in_flight = 1
    one.report(totals=some_totals(3), in_flight=2, waiting=1, waiting_s=4.0)
    two.report(totals=some_totals(5), in_flight=1, waiting_s=1.0)
    two.report(totals=some_totals(7), in_flight=1, waiting_s=1.0)
    text = on.metrics.render()[0].decode()
    assert 'lb_requests_total{code="200",method="GET",service="web"} 11.0' in text
    assert 'lb_inflight_requests{service="web"} 4.0' in text
    assert 'lb_queued_requests{service="web"} 1.0' in text
    demand = on.site.demand()
    assert (demand.arrived_total, demand.queued, demand.waiting_s) == (10, 1, 4.0)
    on.lead.part(two.peer)
    text = on.metrics.render()[0].decode()
    assert 'lb_requests_total{code="200",method="GET",service="web"} 11.0' in text
    assert 'lb_inflight_requests{service="web"} 3.0' in text
    # who comes in its place begins at nought
    three = Other(on.lead, 2)
    three.report(totals=some_totals(1))
    assert on.site.counters.requests_total == 12


async def test_backends_failures_and_answers_are_those_of_all() -> None:
    on = stage("a")
    one = Other(on.lead)
    one.report(
        running={"a": 1},
        answered={"a": {"requests": 9, "bad": 2, "failures reset": 2, "latency 40": 6}},
    )
    (view,) = on.pool.snapshot()
    assert (view.in_flight, view.requests_total, view.failures_total) == (1, 9, 2)
    answers = on.pool.answers("a")
    assert answers is not None
    assert (answers.asked, answers.bad) == (8, 2)
    one.report(totals={"ejections success_rate": 2})
    one.report(totals={"ejections success_rate": 2})
    assert on.pool.ejections["success_rate"] == 2


async def test_what_belongs_to_no_service_is_summed_too() -> None:
    unrouted = RequestMetrics(NOWHERE)
    lead = Lead(unrouted)
    peer = Peer(1, lambda _packed: None)
    lead.join(peer)
    for dropped in (2, 5):
        part = {
            "totals": {"turned_away": 1, "dropped": dropped},
            "now": Elsewhere(connections=7).as_dict(),
        }
        lead.report(peer, {"version": 0, "services": {"0": part}, "backends": {}})
    assert (unrouted.turned_away, unrouted.elsewhere.connections, lead.dropped) == (1, 7, 5)
    lead.part(peer)
    assert (unrouted.turned_away, unrouted.elsewhere.connections, lead.dropped) == (1, 0, 5)


# ── urgent ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_who_waits_anywhere_calls_for_a_machine() -> None:
    on = stage(awaited=9.0)
    calls: list[str] = []
    on.site.line.on_wait = lambda: calls.append("wake")
    one = Other(on.lead)
    assert one.newest.awaited_s == 9.0
    one.report(waiting=1)
    one.report(waiting=2)
    assert calls == ["wake"]
    one.report()
    one.report(waiting=1)
    assert calls == ["wake", "wake"]


async def test_a_doubt_is_looked_into_and_its_end_told() -> None:
    on = stage("a")
    asked: list[str] = []
    on.pool.on_doubt = lambda backend: asked.append(backend.name)
    one = Other(on.lead)
    at = on.pool.clock()
    on.lead.doubt({"backends": {str(one.id_of("a")): [at, 1]}})
    assert asked == ["a"]
    assert on.pool.available
    on.pool.observe(Report("a", "a:80", True, "200", asked_at=at - 1))
    await asyncio.sleep(0)
    assert all(b.well_at is None for state in one.states for b in state.backends)
    on.pool.observe(Report("a", "a:80", True, "200", asked_at=at + 1))
    await asyncio.sleep(0)
    assert one.newest.backends[0].well_at == at + 1


async def test_as_many_refused_connections_as_here_take_it_out() -> None:
    on = stage("a", "b")
    one = Other(on.lead)
    on.lead.doubt({"backends": {str(one.id_of("a")): [on.pool.clock(), 2]}})
    assert len(on.pool.available) == 2
    on.lead.doubt({"backends": {str(one.id_of("a")): [on.pool.clock(), 3], "999": [0.0, 9]}})
    assert [backend.name for backend in on.pool.available] == ["b"]
    await asyncio.sleep(0)
    (told, _) = one.newest.backends
    assert (told.healthy, told.dead, told.refused) == (False, True, True)


async def test_a_doubt_of_one_that_has_left_or_is_out_changes_nothing() -> None:
    on = stage("a")
    one = Other(on.lead)
    number = str(one.id_of("a"))
    probe(on.pool, "a", ok=False, times=3)
    version = on.lead.version
    on.lead.doubt({"backends": {number: [on.pool.clock(), 9]}})
    assert on.lead.version == version
    leave(on.pool, "a")
    on.lead.doubt({"backends": {number: [on.pool.clock(), 9]}})
    assert "a" not in on.pool
