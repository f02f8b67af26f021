"""The scaler's parts as rows: for the admin API, and for `/metrics`."""

from __future__ import annotations

import pytest

from autoscale.host import HostInfo
from autoscale.model import (
    Decision,
    Reason,
    Sample,
    Signal,
    VmState,
    VmStatus,
)
from lb.metrics import Histogram
from lb.rows import DecisionLog, autoscaler_rows, host_row, scale_row, vm_row
from tests.world import World, rules, shape

INFO = HostInfo(
    "local", "qemu:///embed?root=/r", "qemu", "no vmx", 2, 1 << 30, "9.0.0", "user", True
)


def decision(current: int, desired: int, reason: Reason) -> Decision:
    return Decision("web", 100.0, current, desired, reason, f"{current} → {desired}")


def status(sample: Sample | None = None, signal: Signal | None = None) -> VmStatus:
    return VmStatus(
        "web-1", "web", "local", VmState.READY, "running", "127.0.0.1:40001", 12.34567,
        "0123456789abcdef", 0.4, sample, signal,
    )  # fmt: skip


def test_decisions_are_counted_and_the_last_of_each_direction_dated() -> None:
    log = DecisionLog()
    for at, one in enumerate(
        (
            decision(1, 1, Reason.STEADY),
            decision(1, 2, Reason.CPU_OVERLOAD),
            decision(2, 2, Reason.STEADY),
            decision(2, 1, Reason.CPU_LOW),
        )
    ):
        log.decided(one, 1000.0 + at)
    assert log.counts == {
        ("none", "steady"): 2,
        ("up", "cpu_overload"): 1,
        ("down", "cpu_low"): 1,
    }
    assert log.last_scale_unix_s == {"up": 1001.0, "down": 1003.0}
    assert (log.newest_at, log.newest and log.newest.reason) == (1003.0, Reason.CPU_LOW)


def test_a_service_without_vms_has_no_size() -> None:
    row = scale_row("web", None, DecisionLog())
    assert (row.desired, row.ready, row.min, row.max, row.reason) == (0, 0, 0, 0, None)


async def test_a_services_size_and_why() -> None:
    world, log = World(rules(2, 3)), DecisionLog()
    assert scale_row("web", world.controller, log).reason is None
    await world.run(20)
    log.decided(world.decision, 1.7e9)
    row = scale_row("web", world.controller, log)
    assert (row.desired, row.ready, row.booting, row.min, row.max) == (2, 2, 0, 2, 3)
    assert row.sentence == world.decision.sentence
    assert row.decided_at == 1.7e9


def test_a_vm_of_which_nothing_is_known_shows_nothing_rather_than_zero() -> None:
    row = vm_row(status())
    assert (row.cpu_host_ratio, row.cpu_vcpu_ratio, row.memory_bytes) == (None, None, None)
    assert (row.age_s, row.image, row.state) == (12.3, "0123456789ab", "ready")


def test_a_vms_cpu_is_of_what_it_may_use() -> None:
    """0.30 cores in all and 0.28 by its vCPU, of 0.4 allowed: 75 % and 70 %."""
    sample = Sample("web-1", 100.0, 10.0, 9.0, 1, 0.4, memory_bytes=1 << 20)
    row = vm_row(status(sample, Signal("web-1", 100.0, 0.75, 0.30, 0.28)))
    assert row.cpu_host_ratio == pytest.approx(0.75)
    assert row.cpu_vcpu_ratio == pytest.approx(0.70)
    assert row.memory_bytes == 1 << 20


def test_hosts_that_answer_and_that_do_not() -> None:
    good = host_row("local", "qemu:///embed", INFO, None, 2)
    assert (good.reachable, good.uri, good.replicas) == (True, "qemu:///embed?root=/r", 2)
    never = host_row("local", "qemu:///embed", None, "no answer", 0)
    assert (never.reachable, never.uri, never.domain_type) == (False, "qemu:///embed", None)
    lost = host_row("local", "qemu:///embed", INFO, "no answer", 2)
    assert (lost.reachable, lost.domain_type, lost.error) == (False, "qemu", "no answer")


async def test_everything_for_a_scrape() -> None:
    world, log = World(rules(2, 3), vm=shape(cpu_limit=0.4)), DecisionLog()
    await world.run(15)
    world.demand = 0.4
    await world.run(3)
    log.decided(decision(1, 2, Reason.BELOW_MIN), 1.7e9)
    name = world.fleet.ready_names()[0]
    cold = Histogram()
    rows = autoscaler_rows(
        {"web": world.controller}, {"web": log}, {"cold": cold.row()}, {name: 0.1}
    )
    (replicas,) = rows.replicas
    assert (replicas.ready, replicas.booting, replicas.min, replicas.max) == (2, 0, 2, 3)
    # 0.4 cores shared by two of 0.4 each
    assert rows.signals == {"cpu": pytest.approx(0.5)}
    assert rows.decisions == {("up", "below_min"): 1}
    assert rows.last_scale_unix_s == {"up": 1.7e9}
    by_name = {vm.vm: vm for vm in rows.vms}
    assert by_name[name].cpu_ratio == {
        "host": pytest.approx(0.5),
        "vcpu": pytest.approx(0.5),
        "guest": pytest.approx(0.25),
    }
    (other,) = set(by_name) - {name}
    assert set(by_name[other].cpu_ratio) == {"host", "vcpu"}, "no word from that guest: left out"


async def test_before_the_first_sample_there_is_no_signal_at_all() -> None:
    world, log = World(), DecisionLog()
    await world.run(1)
    rows = autoscaler_rows({"web": world.controller}, {"web": log}, {}, {})
    assert rows.signals == {}
    assert [vm.cpu_ratio for vm in rows.vms] == [{}]
