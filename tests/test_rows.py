"""The scaler's parts as rows: for the admin API, and for `/metrics`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.decision import Decision, Guard, Part
from autoscale.host import Contact, DomainRefused, HostInfo
from autoscale.launches import Pause
from autoscale.model import Reason, Sample, Signal, VmState, VmStatus
from autoscale.rules import Contention, Mode, Override, Rules
from lb.decisions import DecisionLog
from lb.histogram import Histogram
from lb.rows import autoscaler_rows, host_row, scale_row, signal_ratios, signal_targets, vm_row
from lb.vm_metrics import VmFacts
from tests.world import World, rules, shape

INFO = HostInfo(
    "local", "qemu:///embed?root=/r", "qemu", "no vmx", 2, 1 << 30, "9.0.0", "user", True
)


def decision(current: int, desired: int, reason: Reason) -> Decision:
    return Decision("web", 100.0, current, desired, reason)


def status(sample: Sample | None = None, signal: Signal | None = None) -> VmStatus:
    return VmStatus(
        "web-1", "web", "local", VmState.READY, "running", "127.0.0.1:40001", 12.34567,
        "0123456789abcdef", 0.4, sample, signal,
    )  # fmt: skip


PARTS = (
    Part(
        Reason.CPU_OVERLOAD,
        2,
        2,
        {"utilisation": 0.66, "target": 0.6, "over_s": 3.0, "replicas": 2, "on": "2 replicas"},
    ),
    Part(
        Reason.CONCURRENCY, 3, 3, {"in_flight": 108.0, "mean": 99.0, "target": 45.0, "over_s": 60.0}
    ),
    Part(Reason.QUEUE, 4, 2, {"queued": 7, "drain_s": 2.0, "drains": "drains in 2.0 s"}),
    Part(Reason.LATENCY, 2, 2, {"p99_s": 0.3, "target_s": 0.2}),
    Part(Reason.FORECAST, 0, 0, {"demand": 1.7, "would": 3, "lead_s": 9.0, "error": 0.25}),
)
"""What the parts of the planner tell of themselves, as they do it."""


def busy(vm: str, state: VmState, utilisation: float, delay: float | None) -> VmStatus:
    signal = Signal(vm, 100.0, utilisation, utilisation, utilisation, delay)
    return replace(status(None, signal), name=vm, state=state)


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


async def test_an_operators_order_goes_before_the_configuration_until_it_runs_out() -> None:
    world, log = World(rules(mode=Mode.OBSERVE)), DecisionLog()
    row = scale_row("web", world.controller, log)
    assert (row.mode, row.to, row.until, row.ordered) == ("observe", None, None, False)
    order = Override(Mode.FIXED, 3, until=2000.0)
    world.controller.rules = replace(world.controller.rules, override=order)
    row = scale_row("web", world.controller, log)
    assert (row.mode, row.to, row.until, row.ordered) == ("fixed", 3, 2000.0, True)
    log.decided(decision(1, 1, Reason.STEADY), 2000.0)
    row = scale_row("web", world.controller, log)
    assert (row.mode, row.to, row.until, row.ordered) == ("observe", None, None, False)


async def test_what_the_last_decision_was_made_of() -> None:
    world, log = World(), DecisionLog()
    row = scale_row("web", world.controller, log)
    assert (row.wanted, row.parts, row.guards) == (None, (), ())
    at_max = Guard(Reason.AT_MAX, {"max": 4})
    log.decided(
        replace(decision(4, 4, Reason.AT_MAX), wanted=4, parts=PARTS[3:4], guards=(at_max,)), 1.7e9
    )
    row = scale_row("web", world.controller, log)
    assert row.wanted == 4
    assert [(part["reason"], part["asks"]) for part in row.parts] == [("latency", 2)]
    assert row.guards == (at_max.as_dict(),)


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
    good = host_row("local", "qemu:///embed", INFO, None, [status(), status()])
    assert (good.reachable, good.uri, good.replicas) == (True, "qemu:///embed?root=/r", 2)
    never = host_row("local", "qemu:///embed", None, "no answer")
    assert (never.reachable, never.uri, never.domain_type) == (False, "qemu:///embed", None)
    lost = host_row("local", "qemu:///embed", INFO, "no answer", [status(), status()])
    assert (lost.reachable, lost.domain_type, lost.error) == (False, "qemu", "no answer")


def test_a_host_tells_how_its_calls_have_gone() -> None:
    contact = Contact(answered=9, timed_out=2, hanging=2, silent_s=30.0, holder="pid 7 acts there")
    waits = {"web": Pause("box", 5, is_open=True, wait_s=40.0, why="no room")}
    row = host_row("box", "qemu:///system", INFO, "no answer", (), contact, waits, 1000.0)
    assert (row.silent_since, row.hung_calls, row.held_by) == (970.0, 2, "pid 7 acts there")
    assert row.pauses == (
        {
            "service": "web", "host": "box", "failures": 5, "breaker": "open", "until": 1040.0,
            "why": "no room",
        },
    )  # fmt: skip
    well = host_row("box", "qemu:///system", INFO, None, [status(), status()])
    assert (well.silent_since, well.hung_calls, well.held_by, well.pauses) == (None, 0, None, ())


def test_a_host_counts_its_standbys_apart() -> None:
    vms = [status(), status(), *(replace(status(), role=role) for role in ("standby", "template"))]
    row = host_row("box", "qemu:///system", INFO, None, vms)
    assert (row.replicas, row.standbys) == (2, 2)


def test_a_vm_tells_its_images_name_where_it_is_known() -> None:
    assert vm_row(status()).image_name is None
    named = vm_row(status(), "webapp")
    assert (named.image, named.image_name) == ("0123456789ab", "webapp")


async def test_launches_that_wait_stand_in_the_services_row_and_in_the_metrics() -> None:
    world, log = World(rules(1, 3), hosts=("a", "b")), DecisionLog()
    world.hosts["a"].refuses = DomainRefused("a is full")
    await world.run(3)
    (pause,) = scale_row("web", world.controller, log, 5000.0).pauses
    assert (pause["host"], pause["breaker"], pause["why"]) == ("a", "closed", "a is full")
    world.hosts["b"].refuses = DomainRefused("b is full")
    for domain in list(world.hosts["b"].domains):
        await world.hosts["b"].destroy(domain)
    await world.run(30)
    rows = autoscaler_rows(
        {"web": world.controller}, {"web": log}, {}, {}, {"a": Contact(answered=3, hanging=1)}
    )
    assert rows.breakers == {"web": True}
    assert rows.host_breakers["web", "a"] is True
    assert rows.calls["a", "ok"] == 3
    assert rows.hung_calls == {"a": 1}


async def test_everything_for_a_scrape() -> None:
    world, log = World(rules(2, 3), vm=shape(cpu_limit=0.4)), DecisionLog()
    await world.run(15)
    world.demand = 0.4
    await world.run(3)
    log.decided(decision(1, 2, Reason.BELOW_MIN), 1.7e9)
    name = world.fleet.ready_names()[0]
    cold = Histogram()
    rows = autoscaler_rows(
        {"web": world.controller},
        {"web": log},
        {"cold": cold.row()},
        {name: 0.1},
        hosts_up={"local": True},
    )
    (replicas,) = rows.replicas
    assert (replicas.ready, replicas.booting, replicas.min, replicas.max) == (2, 0, 2, 3)
    # 0.4 cores shared by two of 0.4 each
    assert rows.signals["web", "cpu"] == pytest.approx(0.5)
    assert rows.decisions == {("web", "up", "below_min"): 1}
    assert rows.last_scale_unix_s == {("web", "up"): 1.7e9}
    by_name = {vm.vm: vm for vm in rows.vms}
    assert by_name[name].cpu_ratio == {
        "host": pytest.approx(0.5),
        "vcpu": pytest.approx(0.5),
        "guest": pytest.approx(0.25),
    }
    (other,) = set(by_name) - {name}
    assert set(by_name[other].cpu_ratio) == {"host", "vcpu"}, "no word from that guest: left out"
    shown = by_name[name]
    assert shown.facts == VmFacts("web", "local", "replica", "cold", "ready")
    assert (shown.limit_cores, shown.vcpus) == (0.4, 1)
    assert rows.hosts_up == {"local": True}


def test_what_each_signal_says_of_its_limit() -> None:
    """108 requests on two replicas for 45 each, a queue that takes 2 s of 5 s, p99 0.3 s of 0.2 s;
    of the VMs only those that serve, and in the delay only those whose host tells it."""
    vms = [
        busy("a", VmState.READY, 0.9, 0.2),
        busy("b", VmState.READY, 0.5, None),
        busy("c", VmState.DRAINING, 0.1, 0.9),
    ]
    made = replace(decision(2, 4, Reason.QUEUE), parts=PARTS)
    assert signal_ratios(made, vms, 2, 5.0) == {
        "cpu": pytest.approx(0.7),
        "delay": pytest.approx(0.2),
        "concurrency": pytest.approx(1.2),
        "queue": pytest.approx(0.4),
        "latency": pytest.approx(1.5),
    }


@pytest.mark.parametrize(
    "made",
    [
        None,
        decision(0, 0, Reason.STEADY),
        # it never drains, and there is nobody for whose share the running ones could be
        replace(
            decision(0, 0, Reason.STEADY),
            parts=(PARTS[1], Part(Reason.QUEUE, 1, 0, {"queued": 7, "drain_s": None})),
        ),
    ],
)
def test_a_signal_without_a_figure_is_left_out(made: Decision | None) -> None:
    assert signal_ratios(made, [status()], 0, 5.0) == {}


async def test_what_the_planner_found_stands_by_its_service() -> None:
    web, api = World(), World(rules(mode=Mode.HOLD))
    logs = {"web": DecisionLog(), "api": DecisionLog()}
    logs["web"].decided(replace(decision(1, 4, Reason.QUEUE), parts=PARTS), 1.7e9)
    rows = autoscaler_rows({"web": web.controller, "api": api.controller}, logs, {}, {})
    assert rows.parts == {
        ("web", "cpu_overload"): 2,
        ("web", "concurrency"): 3,
        ("web", "queue"): 4,
        ("web", "latency"): 2,
        ("web", "forecast"): 0,
    }
    assert rows.forecasts == {"web": 3}
    assert rows.forecast_errors == {"web": 0.25}
    assert {labels for labels, in_force in rows.modes.items() if in_force} == {
        ("web", "auto"),
        ("api", "hold"),
    }
    assert len(rows.modes) == 2 * len(Mode)
    assert set(rows.signals) == {("web", "queue"), ("web", "latency")}


async def test_before_the_first_sample_there_is_no_signal_at_all() -> None:
    world, log = World(), DecisionLog()
    await world.run(1)
    rows = autoscaler_rows({"web": world.controller}, {"web": log}, {}, {})
    assert rows.signals == {}
    assert [vm.cpu_ratio for vm in rows.vms] == [{}]


def test_what_each_signal_is_held_against() -> None:
    assert signal_targets(Rules(target_cpu=0.7)) == {
        "cpu": 0.7,
        "concurrency": 1.0,
        "queue": 1.0,
        "delay": 0.25,
    }
    told = signal_targets(Rules(latency_p99_s=0.2, host_contention=Contention.IGNORE))
    assert (told["latency"], "delay" in told) == (1.0, False)
