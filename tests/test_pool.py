"""The pool: health, leases; and what must hold whatever happens in whatever order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from autoscale.model import EventKind
from lb.backend import Backend, Lifecycle
from lb.balance import POLICIES
from lb.change import Aspect
from lb.config_service import HealthConfig, OutlierConfig, PolicyName, ServiceConfig
from lb.errors import (
    AllTriedError,
    AllUnhealthyError,
    AtCapacityError,
    BodyCutError,
    ClientGoneError,
    ConnectFailedError,
    NoBackendError,
    NoneReadyError,
    UpstreamResetError,
)
from lb.outlier import most_ejected
from lb.pool import Change, Lease, Pool, Report
from tests.pools import (
    Clock,
    answers,
    available,
    backend,
    configured,
    event,
    join,
    lifecycle,
    make,
    probe,
)

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


def test_the_preferred_one_is_taken_where_it_may_be() -> None:
    pool = make(limit=2, fall=1)
    join(pool, "web-1", "web-2", "web-3")
    held = [pool.lease(prefer="web-2"), pool.lease(prefer="web-2")]
    assert [lease.backend.name for lease in held] == ["web-2", "web-2"]
    assert pool.lease(prefer="web-2").backend.name != "web-2", "it is full"
    held[0].release()
    tried = backend(pool, "web-2")
    assert pool.lease(prefer="web-2", exclude=[tried]).backend is not tried
    with pool.lease(prefer="web-2") as lease:
        assert lease.backend is tried
    pool.drain("web-2")
    probe(pool, "web-3", ok=False)
    for name in ("web-2", "web-3", "nobody"):
        with pool.lease(prefer=name) as lease:
            assert lease.backend.name == "web-1"


def test_a_key_leads_to_the_same_backend_while_it_is_there() -> None:
    pool = make(policy="consistent_hash")
    join(pool, *(f"web-{n}" for n in range(8)))

    def owner() -> str:
        with pool.lease(key=b"198.51.100.7") as lease:
            return lease.backend.name

    mine = owner()
    assert {owner() for _ in range(5)} == {mine}
    probe(pool, mine, ok=False, times=3)
    other = owner()
    assert other != mine
    probe(pool, mine)
    assert owner() == mine


def test_a_lease_does_not_overrun_a_hot_key() -> None:
    pool = make(policy="consistent_hash")
    join(pool, *(f"web-{n}" for n in range(4)))
    for number in range(100):
        pool.lease(key=b"%d" % number).release()
    for _ in range(40):
        pool.lease(key=b"hot")
    assert max(one.in_flight for one in pool) <= 13, "1.25 × 40 ÷ 4, rounded up"


def test_excluded_backends_are_not_picked_again() -> None:
    pool = make()
    join(pool, "web-1", "web-2")
    with pool.lease() as first, pool.lease(exclude=[first.backend]) as second:
        assert first.backend is not second.backend
        with pytest.raises(AllTriedError):
            pool.lease(exclude=[first.backend, second.backend])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_those_excluded_are_there_for_the_next_request(policy: str) -> None:
    pool = make(policy=policy, limit=1)
    names = [f"web-{n}" for n in range(5)]
    join(pool, *names)
    tried = [backend(pool, name) for name in names[:4]]
    for _ in range(3):
        with pool.lease(exclude=[*tried, *tried]) as lease:
            assert lease.backend.name == "web-4"
            with pytest.raises(AtCapacityError):
                pool.lease(exclude=tried)
    held = [pool.lease(key=b"%d" % n) for n in range(5)]
    assert {lease.backend.name for lease in held} == set(names)
    with pytest.raises(AllTriedError):
        pool.lease(exclude=[*tried, backend(pool, "web-4")])
    held[0].release()
    with pool.lease() as lease:
        assert lease.backend is held[0].backend


def test_a_pool_offers_somebody_also_where_everybody_is_full() -> None:
    pool = make(limit=1, fall=1)
    found = [pool.offers]
    join(pool, "web-1", ready=False)
    found.append(pool.offers)
    probe(pool, "web-1")
    found.append(pool.offers)
    with pool.lease():
        found.append(pool.offers)
    probe(pool, "web-1", ok=False)
    found.append(pool.offers)
    assert found == [False, False, True, True, False]


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


# ── none available ───────────────────────────────────────────────────────────────────────────────


def test_with_none_available_the_unhealthy_are_asked_all_the_same_if_so_configured() -> None:
    pool = configured(none_available="try_anyway", health=HealthConfig(fall=1))
    join(pool, "web-1", "web-2", "web-3", "web-4")
    join(pool, "web-5", ready=False)
    pool.drain("web-4")
    for name in ("web-1", "web-2"):
        probe(pool, name, ok=False)
    assert {pool.lease().backend.name for _ in range(4)} == {"web-3"}, "one is well"
    probe(pool, "web-3", ok=False)
    assert pool.available == ()
    asked = [pool.lease().backend for _ in range(9)]
    assert {one.name for one in asked} == {"web-1", "web-2", "web-3"}
    with pytest.raises(AllTriedError):
        pool.lease(exclude=asked)
    probe(pool, "web-2")
    assert {pool.lease().backend.name for _ in range(4)} == {"web-2"}


def test_asking_all_the_same_is_no_reason_to_ask_those_that_start_or_leave() -> None:
    pool = configured(none_available="try_anyway")
    join(pool, "web-1", ready=False)
    with pytest.raises(NoneReadyError):
        pool.lease()
    probe(pool, "web-1")
    pool.drain("web-1")
    with pytest.raises(NoneReadyError):
        pool.lease()


# ── slow start ───────────────────────────────────────────────────────────────────────────────────


def share_of(pool: Pool, name: str, picks: int = 2000) -> float:
    """What part of the requests it gets, one at a time."""
    got = 0
    for _ in range(picks):
        with pool.lease() as lease:
            got += lease.backend.name == name
    return got / picks


@pytest.mark.parametrize("policy", ["least_requests", "round_robin", "random_two", "peak_ewma"])
def test_one_that_joins_gets_a_growing_share(policy: str) -> None:
    clock = Clock()
    pool = configured(clock, slow_start=30.0, policy=policy)
    join(pool, "web-1")
    clock.now += 60
    join(pool, "web-2")
    found = []
    for _ in range(4):
        found.append(share_of(pool, "web-2"))
        clock.now += 10
    # 0.1 ÷ 1.1, 0.4 ÷ 1.4, 0.7 ÷ 1.7, 1 ÷ 2
    assert found == pytest.approx([0.09, 0.286, 0.412, 0.5], abs=0.04)


def test_two_that_join_together_share_alike() -> None:
    pool = configured(slow_start=30.0, policy="round_robin")
    join(pool, "web-1", "web-2")
    assert share_of(pool, "web-2") == 0.5


def test_one_that_comes_back_starts_slowly_again() -> None:
    clock = Clock()
    pool = configured(clock, slow_start=30.0, policy="round_robin")
    join(pool, "web-1", "web-2")
    clock.now += 60
    assert share_of(pool, "web-2") == 0.5
    probe(pool, "web-2", ok=False, times=3)
    clock.now += 60
    probe(pool, "web-2")
    assert share_of(pool, "web-2") == pytest.approx(0.1 / 1.1, abs=0.01)


def test_weight_and_slow_start_multiply() -> None:
    clock = Clock()
    pool = configured(clock, slow_start=30.0, policy="round_robin")
    join(pool, "web-1")
    clock.now += 60
    pool.add_static("web-2:80", name="web-2", weight=10)
    probe(pool, "web-2")
    assert share_of(pool, "web-2") == pytest.approx(0.5, abs=0.01)


# ── what answers teach ───────────────────────────────────────────────────────────────────────────


def test_peak_ewma_learns_from_good_answers_who_is_fast() -> None:
    pool = make(policy="peak_ewma")
    join(pool, "web-1", "web-2")
    answers(pool, "web-1", 200, seconds=0.5)
    answers(pool, "web-2", 200, seconds=0.1)
    assert share_of(pool, "web-2", 20) == 1
    answers(pool, "web-1", 500, 500, 503, seconds=0.001)
    assert share_of(pool, "web-2", 20) == 1, "failing is quick"
    answers(pool, "web-2", 200, seconds=0.9)
    assert share_of(pool, "web-1", 20) == 1


# ── whatever happens ─────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["web-1", "web-2", "web-3"])


class PoolMachine(RuleBasedStateMachine):
    """Random events, probes, leases and errors; a plain recount must always agree."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.pool = make(rise=2, fall=2, limit=2, clock=self.clock)
        self.outlier = OutlierConfig(consecutive_5xx=2, min_requests=4, ejection=5.0)
        self.open: list[Lease] = []
        self.given = 0
        self.answered = 0
        self.available: dict[str, bool] = {}
        self.pool.subscribe(self.told)

    def told(self, change: Change) -> None:
        assert change.before != change.after, "only flips are told"

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        slow_start=st.sampled_from([0.0, 10.0]),
        share=st.sampled_from([0.0, 0.5, 1.0]),
        none_available=st.sampled_from(["refuse", "try_anyway"]),
    )
    def configure(
        self, policy: PolicyName, slow_start: float, share: float, none_available: Any
    ) -> None:
        self.outlier = self.outlier.model_copy(update={"max_share": share})
        self.pool.configure(
            ServiceConfig(
                policy=policy,
                slow_start=slow_start,
                none_available=none_available,
                outlier=self.outlier,
                max_in_flight=2,
                health=HealthConfig(rise=2, fall=2),
            )
        )
        self.all_are_well()

    @rule()
    def all_are_well(self) -> None:
        for name in ("web-1", "web-2", "web-3"):
            join(self.pool, name)
            probe(self.pool, name)  # the second good one

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def tick(self) -> None:
        self.pool.tick(self.clock.now)
        assert all(b.record.until is None or b.record.until > self.clock.now for b in self.pool)

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

    def candidates(self) -> list[Backend]:
        if self.pool.available or self.pool.none_available == "refuse":
            return list(self.pool.available)
        return [b for b in self.pool if b.lifecycle is Lifecycle.READY]

    @rule(target=leases, key=st.none() | st.binary(max_size=2), prefer=st.none() | NAMES)
    def lease(self, key: bytes | None, prefer: str | None) -> Lease | None:
        try:
            lease = self.pool.lease(key=key, prefer=prefer)
        except AtCapacityError:
            assert self.candidates()
            assert all(b.in_flight >= 2 for b in self.candidates())
            return None
        except NoBackendError:
            assert not self.candidates()
            return None
        assert lease.backend in self.candidates()
        assert lease.backend.in_flight <= 2
        self.given += 1
        self.open.append(lease)
        return lease

    @rule(name=NAMES)
    def fail_in_a_row(self, name: str) -> None:
        """Too short to be left open: what is reset at once."""
        for _ in range(2):
            try:
                lease = self.pool.lease(prefer=name)
            except NoBackendError:
                return
            with lease:
                lease.failed(UpstreamResetError("reset"))

    @rule(lease=leases, how=st.sampled_from(["answered", "failed", "refused", "gone", "silent"]))
    def end(self, lease: Lease | None, how: str) -> None:
        if lease is None:
            return
        if lease in self.open:
            self.open.remove(lease)
            if how in ("answered", "failed"):
                lease.answered(0.1, self.pool.clock(), 200 if how == "answered" else 500)
                self.answered += 1
            elif how == "refused":
                lease.failed(ConnectFailedError("refused"))
            elif how == "gone":
                lease.failed(ClientGoneError("gone"))
        lease.release()

    @invariant()
    def counters_equal_a_recount(self) -> None:
        assert self.pool.in_flight == len(self.open)
        for one in self.pool:
            assert one.in_flight == sum(lease.backend is one for lease in self.open)
        finished = self.pool.retired_latency().count + sum(b.latency.count for b in self.pool)
        assert finished == self.answered

    @invariant()
    def available_is_what_the_predicate_says(self) -> None:
        assert list(self.pool.available) == [b for b in self.pool if b.available]

    @invariant()
    def an_ejection_never_takes_the_last_one(self) -> None:
        well = [b for b in self.pool if b.passes]
        ejected = [b for b in well if b.ejected]
        assert len(ejected) <= most_ejected(self.pool.outlier, len(well))
        assert not well or self.pool.available

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
