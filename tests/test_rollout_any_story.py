"""Rollouts whatever happens: images that are no good, crashes, orders, load, lifetimes, restarts.

After every step: no more machines of ours than max + standby + 1; the pool was told of each in
order; nobody was drained for a rollout who was needed. Once the hosts do as they are told and an
operator lets it go on, the rollout ends, and every replica is of one image.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from autoscale.model import EventKind, Reason, ScaleEvent
from autoscale.rollout import ImpossibleStep
from tests.fakes import Fault
from tests.rollouts import NEW, RolloutWorld, fixed
from tests.world import shape

MAX = 3
IN_ORDER = re.compile(r"(J+(DJ+)*D?L)*(J+(DJ+)*D?)?D?")
FOR_A_TURN = (Reason.ROLLOUT, Reason.ROLLBACK, Reason.MAX_LIFETIME)


class WatchedWorld(RolloutWorld):
    """Notes whoever is drained for a turnover although he is needed."""

    def __init__(self, wanted: int, standby: int, lifetime_s: float | None) -> None:
        self.needed_and_drained: list[str] = []
        vm = shape(image="old", standby=standby, max_lifetime_s=lifetime_s)
        super().__init__(fixed(wanted, high=MAX), vm=vm)

    def _emit(self, event: ScaleEvent) -> None:
        serving = {backend.name for backend in self.pool.available}
        if event.kind is EventKind.DRAIN and event.reason in FOR_A_TURN:
            left = serving - {event.backend}
            override = self.rules.override
            assert override is not None
            if event.backend in serving and len(left) < (override.to or 0):
                self.needed_and_drained.append(event.backend)
        super()._emit(event)


class AnyRollout(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()

    @initialize(
        wanted=st.integers(0, MAX),
        standby=st.integers(0, 1),
        lifetime_s=st.sampled_from([None, 90]),
        surge=st.integers(0, 2),
    )
    def begin(self, wanted: int, standby: int, lifetime_s: float | None, surge: int) -> None:
        self.world = WatchedWorld(wanted, standby, lifetime_s)
        self.standby = standby
        self.go(15)
        if surge:
            self.world.begin("new", max_surge=surge)

    def go(self, seconds: float) -> None:
        self.runner.run(self.world.run(seconds))

    # --- what happens

    @rule(seconds=st.sampled_from([1, 3, 12, 40]))
    def time_passes(self, seconds: int) -> None:
        self.go(seconds)

    @rule(surge=st.integers(1, 2), pause_at=st.sampled_from([None, 0.3, 0.7]))
    def a_rollout_begins(self, surge: int, pause_at: float | None) -> None:
        rollout = self.world.fleet.turnover.rollout
        if rollout is None or not rollout.goes_on:
            image = "old" if self.world.standing == "new" else "new"
            self.world.begin(image, max_surge=surge, pause_at=pause_at)
        self.go(2)

    @rule(what=st.sampled_from(["pause", "resume", "resume", "undo"]))
    def an_operator_says(self, what: str) -> None:
        with contextlib.suppress(ImpossibleStep):
            getattr(self.world.fleet.turnover, what)()
        self.go(1)

    @rule(bad=st.sampled_from([0.0, 0.02, 0.5, 1.0]), seconds=st.sampled_from([0.05, 0.06, 0.3]))
    def the_new_image_is_so(self, bad: float, seconds: float) -> None:
        self.world.bad[NEW], self.world.seconds[NEW] = bad, seconds
        self.go(3)

    @rule(fault=st.sampled_from([None, *Fault]))
    def the_new_image_starts_so(self, fault: Fault | None) -> None:
        self.world.host.broken = {} if fault is None else {NEW: fault}
        self.go(3)

    @rule(fault=st.sampled_from(list(Fault)), times=st.integers(1, 2))
    def starts_go_wrong(self, fault: Fault, times: int) -> None:
        self.world.host.next_create(fault, times)

    @rule(wanted=st.integers(0, MAX))
    def the_load_changes(self, wanted: int) -> None:
        self.world.controller.rules = self.world.rules = fixed(wanted, high=MAX)
        self.go(4)

    @rule(rate=st.sampled_from([0.0, 5.0, 60.0]))
    def requests_come(self, rate: float) -> None:
        self.world.rate = rate

    @precondition(lambda self: self.world.domains())
    @rule(which=st.integers(0, 9), leaves=st.booleans())
    def one_crashes(self, which: int, leaves: bool) -> None:
        domains = self.world.domains()
        self.world.host.crash(domains[which % len(domains)].name, leaves=leaves)
        self.go(2)

    @precondition(lambda self: self.world.fleet.statuses())
    @rule(which=st.integers(0, 9), protected=st.booleans())
    def one_is_protected(self, which: int, protected: bool) -> None:
        statuses = self.world.fleet.statuses()
        self.runner.run(self.protect(statuses[which % len(statuses)].name, protected))
        self.go(1)

    async def protect(self, name: str, protected: bool) -> None:
        self.world.fleet.protect(name, protected)

    @precondition(lambda self: len(self.world.pool.available) > 1)
    @rule()
    def one_stops_answering_for_a_while(self) -> None:
        name = self.world.pool.available[0].name
        self.world.unprobed.add(name)
        self.go(4)
        self.world.unprobed.clear()
        self.go(1)

    @rule()
    def the_process_is_killed(self) -> None:
        self.runner.run(self.world.restart())
        self.go(1)

    # --- what must hold

    @invariant()
    def never_too_many(self) -> None:
        if hasattr(self, "world"):
            assert self.world.host.peak <= MAX + self.standby + 1

    @invariant()
    def nobody_was_drained_who_was_needed(self) -> None:
        if hasattr(self, "world"):
            assert self.world.needed_and_drained == []

    @invariant()
    def told_in_order(self) -> None:
        if hasattr(self, "world"):
            for name in {event.backend for event in self.world.events}:
                heard = "".join(e.kind.name[0] for e in self.world.events if e.backend == name)
                # a successor tells its own, new pool of whoever it found
                assert IN_ORDER.fullmatch(heard), (name, heard)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.end_well()
                self.runner.run(self.world.tasks.cancel())
        finally:
            self.runner.close()

    def end_well(self) -> None:
        world = self.world
        world.host.forget_faults()
        world.host.broken = {}
        world.rate = 20.0
        world.shape = world.fleet.shape = shape(image="old", standby=self.standby)
        for status in world.fleet.statuses():
            self.runner.run(self.protect(status.name, False))
        wanted = world.rules.override
        assert wanted is not None
        world.notes.clear()
        self.runner.run(world.until(lambda: self.is_over(wanted.to or 0), 1500.0))

    def is_over(self, wanted: int) -> bool:
        """It ended, and there are as many as are wanted, all of the image that holds."""
        if self.world.phase == "paused":
            self.world.fleet.turnover.resume()
        generation = self.world.images[self.world.standing].generation
        ended = self.world.phase in ("", "done", "failed", "undone")
        return ended and self.world.generations() == [generation] * wanted


@pytest.mark.timeout(120)
def test_any_rollout_ends_with_one_image() -> None:
    run_state_machine_as_test(
        AnyRollout,
        settings=settings(
            max_examples=100,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
