"""Counters to utilisation: right where they can be trusted, absent where they cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.model import Demand, Sample
from autoscale.signals import MAX_INTERVAL_S, MIN_INTERVAL_S, Meter, signal_between

NOW = 500.0
BEFORE = Sample(
    "web-1", NOW, cpu_s=10.0, vcpu_s=9.0, vcpus=1, limit_cores=0.4, vcpu_delay_s=2.0, run="a/1"
)


def test_a_second_of_a_limited_replica() -> None:
    """0.30 s of CPU in 1 s, of 0.4 cores allowed: 75 %."""
    after = replace(BEFORE, at=NOW + 1, cpu_s=10.30, vcpu_s=9.28, vcpu_delay_s=2.1)
    signal = signal_between(BEFORE, after, 0.4)
    assert signal is not None
    assert signal.utilisation == pytest.approx(0.75)
    assert signal.cpu_cores == pytest.approx(0.30)
    assert signal.vcpu_cores == pytest.approx(0.28)
    assert (signal.at, signal.interval_s) == (NOW + 1, 1.0)


def test_utilisation_is_of_the_shape_whatever_the_limit_is_just_now() -> None:
    """Its limit is lifted from 0.4 cores to 0.8 and it uses them: twice what its shape allows. It
    would look idle otherwise, and the replica that is on its way would be called off."""
    after = replace(BEFORE, at=NOW + 1, cpu_s=10.8, vcpu_s=9.8, limit_cores=0.8)
    signal = signal_between(BEFORE, after, 0.4)
    assert signal is not None
    assert signal.utilisation == pytest.approx(2.0)


def test_two_vcpus_share_the_delay() -> None:
    """1 s waited in 1 s by two vCPUs together: each was kept waiting for half of the time."""
    before = replace(BEFORE, vcpus=2)
    after = replace(before, at=NOW + 1, vcpu_delay_s=3.0)
    signal = signal_between(before, after, 2.0)
    assert signal is not None
    assert signal.delay_ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("vcpu_s", "waited_s", "delay"),
    [
        pytest.param(0.40, 0.60, 0.0, id="all of its quota used: throttled for the rest"),
        pytest.param(0.23, 0.29, 0.0, id="half of it, in bursts, on a host with cores to spare"),
        pytest.param(0.10, 0.65, 0.5, id="hardly anything, and it waited: 0.15 s of it its own"),
        pytest.param(0.00, 0.30, 0.3, id="nothing, and it waited"),
    ],
)
def test_being_throttled_by_its_own_limit_is_no_sign_of_a_contended_host(
    vcpu_s: float, waited_s: float, delay: float
) -> None:
    """The first two as measured with a quota of 0.4 cores on a host that was otherwise idle."""
    after = replace(BEFORE, at=NOW + 1, vcpu_s=9.0 + vcpu_s, vcpu_delay_s=2.0 + waited_s)
    signal = signal_between(BEFORE, after, 0.4)
    assert signal is not None
    assert signal.delay_ratio == pytest.approx(delay)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(replace(BEFORE, at=NOW), id="no time passed"),
        pytest.param(replace(BEFORE, at=NOW - 1), id="the clock stepped back"),
        pytest.param(replace(BEFORE, at=NOW + 0.04, cpu_s=10.02), id="too close for 10 ms ticks"),
        pytest.param(replace(BEFORE, at=NOW + 11, cpu_s=12.0), id="too far apart"),
        pytest.param(replace(BEFORE, at=NOW + 1, cpu_s=0.2), id="the guest was started again"),
        pytest.param(replace(BEFORE, at=NOW + 1, vcpu_s=8.0), id="a vCPU counter went back"),
        pytest.param(replace(BEFORE, at=NOW + 1, vcpus=2), id="it has another vCPU"),
        pytest.param(replace(BEFORE, at=NOW + 1, cpu_s=10.2, run="b/1"), id="on another host"),
        pytest.param(replace(BEFORE, at=NOW + 1, cpu_s=10.2, run="a/2"), id="another run of it"),
    ],
)
def test_what_cannot_be_trusted_gives_no_signal(after: Sample) -> None:
    assert signal_between(BEFORE, after, 0.4) is None


def test_no_limit_in_force_is_not_a_division_by_zero() -> None:
    assert signal_between(BEFORE, replace(BEFORE, at=NOW + 1), 0.0) is None


def test_missing_delay_leaves_the_rest() -> None:
    signal = signal_between(BEFORE, replace(BEFORE, at=NOW + 1, cpu_s=10.2, vcpu_delay_s=None), 0.4)
    assert signal is not None
    assert signal.delay_ratio is None
    assert signal.utilisation == pytest.approx(0.5)


seconds = st.floats(-1e6, 1e6)
samples = st.builds(
    Sample,
    vm=st.just("web-1"),
    at=seconds,
    cpu_s=seconds,
    vcpu_s=seconds,
    vcpus=st.integers(1, 8),
    limit_cores=st.sampled_from([0.4, 1.0, 2.0]),
    vcpu_delay_s=st.none() | seconds,
)


@given(
    samples,
    st.floats(-1, 12),
    st.floats(-5, 50),
    st.floats(-5, 50),
    st.booleans(),
    st.sampled_from([0.0, 0.4, 1.0, 2.0]),
)
def test_a_signal_never_comes_from_bad_counters(
    before: Sample, elapsed: float, cpu: float, vcpu: float, new_run: bool, allowed: float
) -> None:
    after = replace(
        before,
        at=before.at + elapsed,
        cpu_s=before.cpu_s + cpu,
        vcpu_s=before.vcpu_s + vcpu,
        run="a/2" if new_run else before.run,
    )
    signal = signal_between(before, after, allowed)
    good = (
        MIN_INTERVAL_S <= after.at - before.at <= MAX_INTERVAL_S
        and after.cpu_s >= before.cpu_s
        and after.vcpu_s >= before.vcpu_s
        and not new_run
        and allowed > 0
    )
    assert (signal is not None) == good
    if signal is not None:
        assert math.isfinite(signal.utilisation)
        assert signal.utilisation >= 0
        assert signal.delay_ratio is None or signal.delay_ratio >= 0


# --- the meter: machines


ALLOWED = {"web-1": 0.4}


def at(seconds: float, cpu_s: float, vm: str = "web-1", run: str = "a/1") -> Sample:
    """A sample so many seconds after NOW."""
    return Sample(vm, NOW + seconds, cpu_s, cpu_s, 1, 0.4, 0.0, run=run)


def sampled(*samples: Sample, interval_s: float = 1.0) -> Meter:
    meter = Meter(interval_s)
    for sample in samples:
        meter.sampled([sample], ALLOWED, {"web-1"})
    return meter


def utilisation(meter: Meter) -> object:
    signal = meter.cpu.get("web-1")
    return None if signal is None else pytest.approx(signal.utilisation)


def test_one_sample_says_nothing_two_do() -> None:
    assert utilisation(sampled(at(0, 10.0))) is None
    assert utilisation(sampled(at(0, 10.0), at(1, 10.2))) == 0.5


def test_an_early_tick_leaves_the_signal_and_its_base_alone() -> None:
    """Woken 0.1 s after a sample: a difference over so little is noise."""
    meter = sampled(at(0, 10.0), at(1, 10.2), at(1.1, 10.24))
    assert utilisation(meter) == 0.5
    meter.sampled([at(2, 10.4)], ALLOWED, {"web-1"})
    assert utilisation(meter) == 0.5
    assert meter.cpu["web-1"].interval_s == 1.0


def test_after_a_lost_sample_the_next_speaks_for_both_intervals() -> None:
    meter = sampled(at(0, 10.0), at(1, 10.2))
    meter.sampled([], ALLOWED, {"web-1"})
    assert meter.cpu["web-1"].at == NOW + 1, "the last one stands: how old it is, it says"
    meter.sampled([at(3, 10.9)], ALLOWED, {"web-1"})
    assert meter.cpu["web-1"].interval_s == 2.0
    assert utilisation(meter) == 0.875


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(at(2, 0.1), id="its counters went back"),
        pytest.param(at(2, 10.5, run="a/2"), id="it was started again"),
        pytest.param(at(2, 10.5, run="b/1"), id="it moved to another host"),
        pytest.param(at(-5, 10.5), id="the clock stepped back"),
        pytest.param(at(60, 20.0), id="a minute without a sample"),
    ],
)
def test_a_difference_that_cannot_be_trusted_is_no_data_and_the_next_is_good_again(
    odd: Sample,
) -> None:
    meter = sampled(at(0, 10.0), at(1, 10.2), odd)
    assert meter.cpu == {}
    after = replace(odd, at=odd.at + 1, cpu_s=odd.cpu_s + 0.1, vcpu_s=odd.vcpu_s + 0.1)
    meter.sampled([after], ALLOWED, {"web-1"})
    assert utilisation(meter) == 0.25


def test_at_slow_sampling_a_minute_apart_is_no_gap() -> None:
    assert utilisation(sampled(at(0, 10.0), at(60, 22.0), interval_s=60.0)) == 0.5


def test_who_is_gone_is_forgotten_and_strangers_are_not_taken_in() -> None:
    meter = sampled(at(0, 10.0), at(1, 10.2))
    meter.sampled([at(2, 10.4), at(2, 5.0, "web-2")], ALLOWED, {"web-3"})
    assert meter.cpu == {}
    meter.sampled([at(3, 10.6), at(3, 5.2, "web-2")], ALLOWED, {"web-1", "web-2"})
    assert meter.cpu == {}, "both begin anew"


def test_without_a_word_on_its_shape_the_limit_in_force_counts() -> None:
    meter = Meter(1.0)
    for sample in (at(0, 10.0), at(1, 10.2)):
        meter.sampled([sample], {}, {"web-1"})
    assert utilisation(meter) == 0.5


def test_what_was_handed_out_does_not_change_afterwards() -> None:
    meter = sampled(at(0, 10.0), at(1, 10.2))
    before = meter.signals(Demand(NOW), ("web-1",), {}, 0.0)
    meter.sampled([at(2, 10.6)], ALLOWED, {"web-1"})
    assert before.cpu["web-1"].utilisation == pytest.approx(0.5)


# --- the meter: clients


def demand(seconds: float, arrived: int, **served: int) -> Demand:
    return Demand(NOW + seconds, arrived_total=arrived, served_total=served)


def rates(*readings: Demand) -> tuple[float | None, dict[str, float]]:
    meter = Meter(1.0)
    for reading in readings:
        meter.asked(reading)
    signals = meter.signals(readings[-1], (), {}, 0.0)
    return signals.arrivals_per_s, dict(signals.served_per_s)


def test_a_rate_is_a_difference_of_two_readings() -> None:
    assert rates(demand(0, 100)) == (None, {})
    assert rates(demand(0, 100, a=40, b=60), demand(2, 120, a=50, b=60)) == (10.0, {"a": 5, "b": 0})


def test_readings_too_close_together_leave_the_rates_alone() -> None:
    first, second = demand(0, 100, a=100), demand(1, 110, a=110)
    assert rates(first, second, demand(1.1, 150, a=150)) == (10.0, {"a": 10.0})
    assert rates(first, second, demand(1.1, 150, a=150), demand(2, 130, a=130))[0] == 20.0


def test_a_backend_that_has_just_come_or_began_anew_has_no_rate() -> None:
    before = demand(0, 100, old=40, again=60)
    assert rates(before, demand(1, 110, old=50, again=3, new=7)) == (10.0, {"old": 10.0})


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        pytest.param(demand(2, 3), None, id="the totals went back"),
        pytest.param(demand(90, 2000), None, id="nobody looked for a minute"),
        pytest.param(demand(-5, 500), 10.0, id="the clock stepped back: the last rate stands"),
    ],
)
def test_a_reading_that_cannot_be_trusted_is_a_new_beginning(
    odd: Demand, expected: float | None
) -> None:
    readings = (demand(0, 100), demand(1, 110), odd)
    assert rates(*readings)[0] == expected
    after = replace(odd, at=odd.at + 1, arrived_total=odd.arrived_total + 7)
    assert rates(*readings, after)[0] == 7.0


def test_what_stands_now_is_handed_on_as_it_is() -> None:
    now = Demand(
        NOW,
        queued=14,
        waiting_s=2.1,
        latency_p99_s=0.9,
        in_flight={"web-1": 3, "web-2": 4, "leaving": 9},
    )
    signals = Meter(1.0).signals(now, ("web-1", "web-2"), {"web-1": "a"}, 1.7e9, ("a", "b"))
    assert (signals.in_flight, signals.queued, signals.waiting_s) == (7, 14, 2.1)
    assert (signals.latency_p99_s, signals.wall_s) == (0.9, 1.7e9)
    assert signals.serving == ("web-1", "web-2")
    assert (dict(signals.host_of), tuple(signals.hosts)) == ({"web-1": "a"}, ("a", "b"))


@given(
    st.lists(
        st.tuples(
            st.floats(-20, 20),
            st.integers(0, 1000),
            st.dictionaries(st.sampled_from("abc"), st.integers(0, 1000)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_is_read_no_rate_is_ever_negative(
    readings: list[tuple[float, int, dict[str, int]]],
) -> None:
    meter, now = Meter(1.0), NOW
    for step, arrived, served in readings:
        now += step
        meter.asked(Demand(now, arrived_total=arrived, served_total=served))
        signals = meter.signals(Demand(now), (), {}, 0.0)
        assert signals.arrivals_per_s is None or signals.arrivals_per_s >= 0
        assert all(rate >= 0 for rate in signals.served_per_s.values())
        assert signals.reading_s >= 0.5


@given(
    st.lists(
        st.tuples(st.floats(-20, 20), st.floats(0, 100), st.sampled_from(["a/1", "a/2", "b/1"])),
        max_size=12,
    )
)
def test_whatever_is_sampled_no_signal_is_ever_negative(
    steps: list[tuple[float, float, str]],
) -> None:
    meter, seconds = Meter(1.0), 0.0
    for step, cpu_s, run in steps:
        seconds += step
        meter.sampled([at(seconds, cpu_s, run=run)], ALLOWED, {"web-1"})
        for signal in meter.cpu.values():
            assert signal.utilisation >= 0
            assert signal.interval_s >= 0.5
