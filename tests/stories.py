"""A demo's story as a good run tells it, made of the real values; tests change what they doubt.

The acts last 20 s each: low 0–20, high 20–40, relief 40–60, after 60–80, calm 80–100. The second
replica is decided on at 26 and serves at 37, and leaves at 96.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lb.demo_story import ACTS, Moment, Point, Setting, Story, VmPoint
from loadtest.result import Counts, Histograms, PhaseResult, PlanResult, Result, Second
from loadtest.stats import Distribution, Tally

FIRST, SECOND = "web-3f9a21", "web-b07c5d"
ACT_S = 20.0
END_S = ACT_S * len(ACTS)
STARTS = {act: number * ACT_S for number, act in enumerate(ACTS)}
GROWS_AT, SERVES_AT, SHRINKS_AT, GONE_AT = 26.0, 37.0, 92.0, 96.0
RATES = {"low": 10.0, "high": 30.0, "relief": 30.0, "after": 30.0, "calm": 10.0}
P99 = {"low": 0.08, "high": 8.0, "relief": 6.0, "after": 0.4, "calm": 0.08}
_NO_HISTOGRAM = Tally().encode()

SETTING = Setting(
    domain_type="qemu",
    why="software emulation: the host's CPU shows neither vmx nor svm to KVM",
    host_cores=2,
    libvirt="9.0.0",
    vcpus=1,
    limit_cores=0.4,
    limited=True,
    target_cpu=0.8,
    work=1,
    capacity_rps=20.0,
    low_rps=10.0,
    high_rps=30.0,
)


def story(**changes: Any) -> Story:
    """A good one, with these fields instead."""
    told = Story(
        setting=SETTING,
        points=[point(-10.0 + step * 0.5) for step in range(int((END_S + 10.0) * 2) + 1)],
        moments=moments(),
        starts=dict(STARTS),
        result=result(),
    )
    for name, value in changes.items():
        setattr(told, name, value)
    return told


def moments() -> list[Moment]:
    return [
        Moment(-24.0, "vm.launch", FIRST, "below_min", f"starting {FIRST} on local"),
        Moment(-14.0, "backend.ready", FIRST, "below_min", f"{FIRST} starting → ready: probe: 200"),
        Moment(-14.0, "vm.ready", FIRST, "below_min", f"{FIRST} serves at 127.0.0.1:54855"),
        Moment(GROWS_AT, "scale.up", "web", "cpu_overload", "1 → 2: CPU 1.09 of target 0.80 on 1"),
        Moment(GROWS_AT, "vm.launch", SECOND, "cpu_overload", f"starting {SECOND} on local"),
        Moment(SERVES_AT, "vm.ready", SECOND, "cpu_overload", f"{SECOND} serves, 11.0 s after"),
        Moment(SHRINKS_AT, "scale.down", "web", "cpu_low", "2 → 1: 1 would be at 0.55 of 0.80"),
        Moment(SHRINKS_AT, "vm.draining", SECOND, "cpu_low", f"{SECOND} takes no new request"),
        Moment(GONE_AT, "vm.gone", SECOND, "drained", f"{SECOND} is gone"),
    ]


def point(t: float) -> Point:
    act = act_at(t)
    two = GROWS_AT <= t < SHRINKS_AT
    serving = 2 if SERVES_AT <= t < SHRINKS_AT else 1
    host = {"low": 0.2, "calm": 0.2, "after": 0.3}.get(act, 0.4)
    vms = {FIRST: vm(host)}
    if two:
        vms[SECOND] = (
            VmPoint("booting", 0.95, 0.9, None) if serving == 1 else vm(host * 0.97)
        )  # fmt: skip
    elif SHRINKS_AT <= t < GONE_AT:
        vms[SECOND] = VmPoint("draining", 0.05, 0.04, None)
    queue = 90 if act in ("high", "relief") else 1
    return Point(t, 2 if two else 1, serving, int(two and serving == 1), queue, vms)


def vm(host: float) -> VmPoint:
    """One that serves: QEMU's own overhead is a tenth of the host's figure."""
    return VmPoint("ready", host, host * 0.9, host * 0.75)


def act_at(t: float) -> str:
    return ACTS[max(0, min(len(ACTS) - 1, int(t // ACT_S)))]


def result(**changes: Any) -> Result:
    phases = [phase(act) for act in ACTS]
    intended = sum(p.counts.intended for p in phases)
    good = Result(
        url="http://127.0.0.1:8080/render?work=1",
        method="GET",
        plan=PlanResult("low=10@trigger", "poisson", 1, 10_000, 180.0, []),
        started_unix=1_700_000_000.0,
        duration_s=END_S,
        stopped_by="finish",
        counts=Counts(intended, intended, intended, 0, 0, 0, 0),
        reconnects=0,
        connections_opened=100,
        bytes_received=10_000_000,
        cpu_s=3.0,
        dropped={},
        errors={},
        status={"200": intended},
        latency_s=times(1.0),
        service_s=times(1.0),
        send_lag_s=times(0.001),
        trustworthy=True,
        reasons=[],
        phases=phases,
        shifts=[],
        series=[second(float(t)) for t in range(int(END_S))],
        histograms=Histograms(_NO_HISTOGRAM, _NO_HISTOGRAM, _NO_HISTOGRAM),
    )
    return replace(good, **changes)


def phase(act: str, **changes: Any) -> PhaseResult:
    start, sent = STARTS[act], int(RATES[act] * ACT_S)
    counts = Counts(sent, sent, sent, 0, 0, 0, 0)
    good = PhaseResult(
        act, start, start + ACT_S, counts, {}, times(P99[act], sent), times(P99[act], sent)
    )
    return replace(good, **changes)


def times(p99: float, count: int = 100) -> Distribution:
    return Distribution(count, p99 * 0.5, p99 * 0.4, p99 * 0.8, p99, p99 * 1.1, p99 * 1.2)


def second(t: float) -> Second:
    act = act_at(t)
    rate = RATES[act]
    done = min(rate, 20.0) if act == "high" else 37.0 if act == "relief" else rate
    return Second(
        t, 1.0, act, rate, int(rate), int(rate), int(done), 0, 0, 5, P99[act] * 0.4, P99[act]
    )


def with_phases(**distributions: Distribution) -> Result:
    """A result in which these acts took so long."""
    return result(
        phases=[
            phase(act, latency_s=distributions[act]) if act in distributions else phase(act)
            for act in ACTS
        ]
    )
