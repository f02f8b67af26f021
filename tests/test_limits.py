"""Which CPU limit a replica should have: its shape's, or more for a while."""

from __future__ import annotations

import pytest

from autoscale.domain_xml import Identity
from autoscale.limits import FREE_S, CpuLimits
from autoscale.model import VmState
from autoscale.vm import Vm

NOW = 100.0
LATER = NOW + FREE_S


def vm(cpu_limit: float = 0.4, state: VmState = VmState.READY, host: str = "a") -> Vm:
    identity = Identity("ours", "web", "generation-1", 8080, cpu_limit, 1.7e9)
    return Vm("web-1", host, identity, NOW, NOW, state=state)


def test_the_limit_is_missing_until_it_was_set() -> None:
    limits, one = CpuLimits(), vm()
    assert limits.missing(one, 1, LATER) == 0.4
    one.limit_cores = 0.4
    assert limits.missing(one, 1, LATER) is None


def test_a_replica_that_may_use_all_its_vcpus_needs_no_limit() -> None:
    limits = CpuLimits(burst=2.0, lifted=True)
    assert limits.missing(vm(1.0), 1, LATER) is None
    assert limits.missing(vm(1.0), 2, LATER) == 2.0


@pytest.mark.parametrize(
    ("burst", "lifted", "limit"),
    [(2.0, True, 0.8), (9.0, True, 1.0), (2.0, False, 0.4), (None, True, 0.4)],
    ids=["lifted", "never beyond its vCPUs", "not lifted", "not configured"],
)
def test_while_help_is_on_its_way_it_may_use_more(
    burst: float | None, lifted: bool, limit: float
) -> None:
    limits = CpuLimits(burst=burst, lifted=lifted)
    assert limits.missing(vm(), 1, LATER) == pytest.approx(limit)


def test_a_lifted_limit_is_put_back() -> None:
    limits, one = CpuLimits(burst=2.0), vm()
    one.limit_cores = 0.8
    assert limits.missing(one, 1, LATER) == 0.4


def test_a_host_that_cannot_limit_is_left_alone() -> None:
    limits = CpuLimits(burst=2.0, lifted=True, unsupported={"a"})
    assert limits.missing(vm(), 1, LATER) is None
    assert limits.missing(vm(host="b"), 1, LATER) == 0.8


def test_a_shape_allows_the_same_whether_or_not_the_limit_is_lifted() -> None:
    one = vm()
    assert CpuLimits().allowed_cores(one, 1, LATER) == 0.4
    one.limit_cores = 0.8
    assert CpuLimits(burst=2.0, lifted=True).allowed_cores(one, 1, LATER) == 0.4


@pytest.mark.parametrize("state", [VmState.BOOTING, VmState.DEFINED])
def test_without_a_limit_all_its_vcpus_are_allowed(state: VmState) -> None:
    assert CpuLimits().allowed_cores(vm(state=state), 2, LATER) == 2
    assert CpuLimits(unsupported={"a"}).allowed_cores(vm(), 2, LATER) == 2
    assert CpuLimits().allowed_cores(vm(8.0), 2, LATER) == 2


def test_who_has_just_come_works_off_what_queued_up_meanwhile() -> None:
    one, limits = vm(), CpuLimits()
    assert limits.missing(one, 1, LATER - 0.1) is None
    assert limits.allowed_cores(one, 1, LATER - 0.1) == 1
    assert limits.missing(one, 1, LATER) == 0.4
    assert limits.allowed_cores(one, 1, LATER) == 0.4


def test_who_was_there_before_us_has_its_limit_maybe() -> None:
    one, limits = vm(), CpuLimits()
    one.adopted = True
    assert limits.missing(one, 1, NOW) == 0.4
    assert limits.allowed_cores(one, 1, NOW) == 0.4


def test_a_limit_that_is_in_force_stays() -> None:
    one, limits = vm(), CpuLimits()
    one.limit_cores = 0.4
    assert limits.missing(one, 1, NOW) is None
    assert limits.allowed_cores(one, 1, NOW) == 0.4
