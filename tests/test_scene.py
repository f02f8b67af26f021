"""What one VM is to a turnover at one instant: past its lifetime, able to leave; how many more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.domain_xml import Identity
from autoscale.model import PoolLoad, VmState
from autoscale.rollout import Rollout
from autoscale.scene import JITTER, Scene, can_be_told, overdue, surge_of
from autoscale.vm import Vm
from tests.fakes import OURS

NOW, WALL = 1000.0, 1.7e9


def vm(name: str, *, age_s: float = 60.0, state: VmState = VmState.READY) -> Vm:
    identity = Identity(OURS, "web", "g1", 8080, 1.0, WALL - age_s)
    return Vm(name, "local", identity, NOW - age_s, NOW - age_s, state=state)


def scene(desired: int = 2) -> Scene:
    return Scene((), PoolLoad("web", ()), desired, NOW, WALL, most=4)


def test_a_lifetime_differs_by_a_tenth_and_counts_from_the_start() -> None:
    ages = [
        next(age for age in range(2000)
             if overdue(vm(f"web-{n}", age_s=age), replace(scene(), max_lifetime_s=1000.0)))
        for n in range(40)
    ]  # fmt: skip
    assert min(ages) >= 1000 * (1 - JITTER)
    assert max(ages) <= 1000 * (1 + JITTER) + 1
    assert len(set(ages)) > 30, "they do not all go at once"
    assert not overdue(vm("a", age_s=1e9), scene())


def test_only_one_that_surely_exists_on_a_host_that_answers_can_be_told_to_leave() -> None:
    assert can_be_told(vm("a"), scene())
    assert not can_be_told(vm("a"), replace(scene(), silent={"local"}))
    assert can_be_told(vm("a"), replace(scene(), silent={"other"}))
    assert not can_be_told(vm("a", state=VmState.DEFINED), scene())


@pytest.mark.parametrize(("desired", "more"), [(1, 3), (2, 3), (3, 2), (4, 1), (5, 1)])
def test_so_many_more_as_leave_the_load_its_room(desired: int, more: int) -> None:
    assert surge_of(Rollout("old", "old", "new", "g2", WALL, max_surge=3), scene(desired)) == more
