"""The pool: membership, health, leases; and what must hold whatever happens in whatever order."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from autoscale.model import EventKind, Reason, ScaleEvent
from lb.backend import Lifecycle
from lb.balance import policy_named
from lb.change import Aspect
from lb.config import HealthConfig, ServiceConfig
from lb.errors import (
    AllTriedError,
    AllUnhealthyError,
    AtCapacityError,
    BodyCutError,
    ClientGoneError,
    ConnectFailedError,
    NoBackendError,
    NoneReadyError,
    PoolEmptyError,
    UnknownBackendError,
    UpstreamResetError,
)
from lb.pool import Change, Lease, Pool, Report


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(
    rise: int = 1, fall: int = 3, policy: str = "least_requests", limit: int = sys.maxsize
) -> Pool:
    return Pool(
        "web",
        policy_named(policy),
        HealthConfig(rise=rise, fall=fall),
        clock=Clock(),
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


# ── membership ───────────────────────────────────────────────────────────────────────────────────


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
    pool = Pool.from_config("web", ServiceConfig(backends=("10.0.0.1:80",)))
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


# ── health ───────────────────────────────────────────────────────────────────────────────────────


def test_probes_flip_only_after_rise_and_fall_in_a_row() -> None:
    pool = make(rise=2, fall=3)
    told: list[Change] = []
    pool.subscribe(told.append)
    join(pool, "web-1", ready=False)
    probe(pool, "web-1")
    assert lifecycle(pool, "web-1") == "starting"
    probe(pool, "web-1")
    assert lifecycle(pool, "web-1") == "ready"
    for ok in (False, False, True, False, False):
        probe(pool, "web-1", ok)
    assert available(pool) == ["web-1"]
    probe(pool, "web-1", False)
    assert available(pool) == []
    with pytest.raises(AllUnhealthyError):
        pool.lease()
    probe(pool, "web-1", False, times=5)
    probe(pool, "web-1", times=2)
    assert available(pool) == ["web-1"]
    health = [(c.before, c.after) for c in told if c.aspect is Aspect.HEALTH]
    assert health == [("healthy", "unhealthy"), ("unhealthy", "healthy")]


def test_refused_requests_in_a_row_take_a_backend_out_at_once() -> None:
    pool = make(fall=3)
    join(pool, "web-1")
    for _ in range(3):
        assert available(pool) == ["web-1"]
        with pool.lease() as lease:
            lease.failed(ConnectFailedError("refused"))
    assert available(pool) == []
    probe(pool, "web-1")
    assert available(pool) == ["web-1"]


def test_an_answer_between_refusals_forgives() -> None:
    pool = make(fall=2)
    join(pool, "web-1")
    for _ in range(5):
        with pool.lease() as lease:
            lease.failed(ConnectFailedError("refused"))
        with pool.lease() as lease:
            lease.answered(0.01, 100.0)
    assert available(pool) == ["web-1"]


def test_only_a_backends_own_fault_counts() -> None:
    pool = make(fall=1)
    join(pool, "web-1")
    for _ in range(5):
        with pool.lease() as lease:
            lease.failed(ClientGoneError("hung up"))
    (view,) = pool.snapshot()
    assert (view.failures_total, view.available) == (0, True)
    with pool.lease() as lease:
        lease.failed(UpstreamResetError("reset"))
    with pool.lease() as lease:
        lease.failed(BodyCutError("cut"))
    (view,) = pool.snapshot()
    assert (view.failures_total, view.available) == (2, True), "counted, and not judged by"


def test_a_draining_backend_is_not_judged() -> None:
    pool = make(fall=1)
    join(pool, "web-1")
    pool.drain("web-1")
    probe(pool, "web-1", ok=False, times=9)
    (view,) = pool.snapshot()
    assert view.healthy


def timeout(pool: Pool, name: str, asked_at: float, times: int = 1) -> None:
    for _ in range(times):
        pool.observe(
            Report(name, f"{name}:80", False, "timeout", asked_at=asked_at, timed_out=True)
        )


def answer(pool: Pool, at: float) -> None:
    with pool.lease() as lease:
        lease.answered(0.1, at)


def test_a_probe_that_times_out_while_requests_are_answered_says_busy_and_not_dead() -> None:
    pool = make(fall=2)
    join(pool, "web-1")
    answer(pool, at=101.0)
    timeout(pool, "web-1", asked_at=100.5, times=5)
    (view,) = pool.snapshot()
    assert (view.available, view.probe) == (True, "busy")


def test_a_probe_that_times_out_with_no_answer_since_it_was_asked_counts() -> None:
    pool = make(fall=2)
    join(pool, "web-1")
    answer(pool, at=101.0)
    timeout(pool, "web-1", asked_at=101.0)
    assert available(pool) == ["web-1"]
    timeout(pool, "web-1", asked_at=102.0)
    assert available(pool) == []
    (view,) = pool.snapshot()
    assert view.probe == "timeout"


def test_one_that_never_answered_a_request_has_no_excuse() -> None:
    pool = make(fall=1)
    join(pool, "web-1")
    timeout(pool, "web-1", asked_at=0.0)
    assert available(pool) == []


def test_a_failed_request_is_no_answer() -> None:
    pool = make(fall=1)
    join(pool, "web-1")
    with pool.lease() as lease:
        lease.failed(UpstreamResetError("reset"))
    timeout(pool, "web-1", asked_at=50.0)
    assert available(pool) == []


@pytest.mark.parametrize("detail", ["refused", "reset", "503", "bad answer"])
def test_what_is_said_outright_counts_however_busy_it_is(detail: str) -> None:
    pool = make(fall=2)
    join(pool, "web-1")
    answer(pool, at=101.0)
    for _ in range(2):
        pool.observe(Report("web-1", "web-1:80", False, detail, asked_at=100.5))
    assert available(pool) == []


def test_busy_neither_forgives_nor_adds_to_the_failures_before_it() -> None:
    pool = make(fall=2)
    join(pool, "web-1")
    probe(pool, "web-1", ok=False)
    answer(pool, at=101.0)
    timeout(pool, "web-1", asked_at=100.5, times=3)
    assert available(pool) == ["web-1"]
    probe(pool, "web-1", ok=False)
    assert available(pool) == []


def test_a_busy_one_whose_drain_is_taken_back_still_has_to_pass_a_probe() -> None:
    pool = make()
    join(pool, "web-1")
    with pool.lease() as lease:
        pool.drain("web-1")
        pool.ready("web-1")
        lease.answered(0.1, 101.0)
    timeout(pool, "web-1", asked_at=100.5)
    assert lifecycle(pool, "web-1") == "starting"


# ── leases ───────────────────────────────────────────────────────────────────────────────────────


def test_picking_is_reserving() -> None:
    pool = make()
    join(pool, "web-1", "web-2")
    first, second = pool.lease(), pool.lease()
    assert {first.backend.name, second.backend.name} == {"web-1", "web-2"}
    assert pool.in_flight == 2
    first.release()
    first.release()
    assert pool.in_flight == 1
    with second:
        pass
    assert pool.in_flight == 0


@pytest.mark.parametrize("policy", ["least_requests", "round_robin"])
def test_no_backend_is_given_more_than_it_may_have(policy: str) -> None:
    pool = make(policy=policy, limit=2)
    join(pool, "web-1", "web-2")
    leases = [pool.lease() for _ in range(4)]
    assert [backend.in_flight for backend in pool] == [2, 2]
    with pytest.raises(AtCapacityError, match="every backend of web has 2 requests running"):
        pool.lease()
    with pytest.raises(AtCapacityError):
        pool.lease(exclude=[leases[0].backend])
    assert pool.in_flight == 4, "a refusal counts nothing"
    freed = leases.pop(1)
    freed.release()
    with pool.lease() as lease:
        assert lease.backend is freed.backend
    for lease in leases:
        lease.release()
    assert pool.in_flight == 0


def test_full_is_said_only_where_waiting_helps() -> None:
    pool = make(limit=1, fall=1)
    join(pool, "web-1")
    with pool.lease() as lease:
        with pytest.raises(AllTriedError):
            pool.lease(exclude=[lease.backend])
        probe(pool, "web-1", ok=False)
        with pytest.raises(AllUnhealthyError):
            pool.lease()
        pool.drain("web-1")
        with pytest.raises(NoneReadyError):
            pool.lease()


def test_room_is_told_after_each_release_and_each_flip_once_it_is_there() -> None:
    pool = make(limit=1, fall=1)
    told: list[tuple[int, list[str]]] = []
    pool.on_room = lambda: told.append((pool.in_flight, available(pool)))
    join(pool, "web-1")
    assert told == [(0, []), (0, ["web-1"])], "joined, ready"
    lease = pool.lease()
    assert len(told) == 2, "a lease makes no room"
    lease.release()
    lease.release()
    assert told[2:] == [(0, ["web-1"])], "once for one lease"
    probe(pool, "web-1", ok=False)
    probe(pool, "web-1")
    assert told[3:] == [(0, []), (0, ["web-1"])]


def test_excluded_backends_are_not_picked_again() -> None:
    pool = make()
    join(pool, "web-1", "web-2")
    with pool.lease() as first, pool.lease(exclude=[first.backend]) as second:
        assert first.backend is not second.backend
        with pytest.raises(AllTriedError):
            pool.lease(exclude=[first.backend, second.backend])


async def test_a_cancelled_request_gives_its_lease_back() -> None:
    pool = make()
    join(pool, "web-1")

    async def request() -> None:
        with pool.lease():
            await asyncio.sleep(60)

    task = asyncio.ensure_future(request())
    await asyncio.sleep(0)
    assert pool.in_flight == 1
    task.cancel()
    await asyncio.wait([task])
    assert pool.in_flight == 0


def test_durations_of_a_backend_that_left_stay_in_the_total() -> None:
    pool = make()
    join(pool, "web-1")
    with pool.lease() as lease:
        lease.answered(0.2, 100.0)
    with pool.lease() as lease:
        pool.remove("web-1")
        assert pool.retired_latency().count == 1
        lease.answered(0.4, 100.0)
        assert pool.retired_latency().count == 2
    assert pool.retired_latency().count == 2
    assert pool.retired_latency().sum_s == pytest.approx(0.6)


def test_a_snapshot_carries_what_the_caller_knows_of_cpu() -> None:
    pool = make()
    join(pool, "web-1", "web-2")
    views = pool.snapshot(cpu={"web-2": 0.7})
    assert [(v.name, v.cpu, v.host) for v in views] == [
        ("web-1", None, "local"),
        ("web-2", 0.7, "local"),
    ]


# ── whatever happens ─────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["web-1", "web-2", "web-3"])


class PoolMachine(RuleBasedStateMachine):
    """Random events, probes, leases and errors; a plain recount must always agree."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.pool = make(rise=2, fall=2, limit=2)
        self.open: list[Lease] = []
        self.given = 0
        self.answered = 0
        self.available: dict[str, bool] = {}
        self.pool.subscribe(self.told)

    def told(self, change: Change) -> None:
        assert change.before != change.after, "only flips are told"

    @rule(name=NAMES, kind=st.sampled_from(list(EventKind)), port=st.sampled_from([80, 81]))
    def event(self, name: str, kind: EventKind, port: int) -> None:
        self.pool.apply(event(kind, name, f"{name}:{port}"))

    @rule(name=NAMES, ok=st.booleans(), port=st.sampled_from([80, 81]))
    def probe(self, name: str, ok: bool, port: int) -> None:
        self.pool.observe(Report(name, f"{name}:{port}", ok))

    @rule(name=NAMES, act=st.sampled_from(["drain", "ready", "remove"]))
    def operate(self, name: str, act: str) -> None:
        if name in self.pool:
            getattr(self.pool, act)(name)

    @rule(target=leases)
    def lease(self) -> Lease | None:
        try:
            lease = self.pool.lease()
        except AtCapacityError:
            assert self.pool.available
            assert all(b.in_flight >= 2 for b in self.pool.available)
            return None
        except NoBackendError:
            assert not self.pool.available
            return None
        assert lease.backend in self.pool.available
        assert lease.backend.in_flight <= 2
        self.given += 1
        self.open.append(lease)
        return lease

    @rule(lease=leases, how=st.sampled_from(["answered", "refused", "gone", "silent"]))
    def end(self, lease: Lease | None, how: str) -> None:
        if lease is None:
            return
        if lease in self.open:
            self.open.remove(lease)
            if how == "answered":
                lease.answered(0.1, self.pool.clock())
                self.answered += 1
            elif how == "refused":
                lease.failed(ConnectFailedError("refused"))
            elif how == "gone":
                lease.failed(ClientGoneError("gone"))
        lease.release()

    @invariant()
    def counters_equal_a_recount(self) -> None:
        assert self.pool.in_flight == len(self.open)
        for backend in self.pool:
            assert backend.in_flight == sum(lease.backend is backend for lease in self.open)
        finished = self.pool.retired_latency().count + sum(b.latency.count for b in self.pool)
        assert finished == self.answered

    @invariant()
    def available_is_what_the_predicate_says(self) -> None:
        assert list(self.pool.available) == [b for b in self.pool if b.available]

    @invariant()
    def load_lists_everyone_who_still_works(self) -> None:
        load = self.pool.load()
        assert sum(b.in_flight for b in load.backends) == len(self.open)
        assert all(b.lifecycle != "gone" or b.in_flight for b in load.backends)

    def teardown(self) -> None:
        for lease in self.open:
            lease.release()
        assert self.pool.in_flight == 0
        assert all(b.lifecycle != "gone" for b in self.pool.load().backends)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
