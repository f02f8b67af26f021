"""Counters to utilisation: right where they can be trusted, absent where they cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.model import Sample
from autoscale.signals import (
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    sample_from_stats,
    signal_between,
)

NOW = 500.0
BEFORE = Sample("web-1", NOW, cpu_s=10.0, vcpu_s=9.0, vcpus=1, limit_cores=0.4, vcpu_delay_s=2.0)


def test_a_second_of_a_limited_replica() -> None:
    """0.30 s of CPU in 1 s, of 0.4 cores allowed: 75 %. The vCPU had 0.28 s and waited 0.1 s."""
    after = replace(BEFORE, at=NOW + 1, cpu_s=10.30, vcpu_s=9.28, vcpu_delay_s=2.1)
    signal = signal_between(BEFORE, after)
    assert signal is not None
    assert signal.utilisation == pytest.approx(0.75)
    assert signal.cpu_cores == pytest.approx(0.30)
    assert signal.vcpu_cores == pytest.approx(0.28)
    assert signal.delay_ratio == pytest.approx(0.1)
    assert signal.at == NOW + 1


def test_two_vcpus_share_the_delay() -> None:
    """1 s waited in 1 s by two vCPUs together: each was kept waiting for half of the time."""
    before = replace(BEFORE, vcpus=2, limit_cores=2.0)
    after = replace(before, at=NOW + 1, vcpu_delay_s=3.0)
    signal = signal_between(before, after)
    assert signal is not None
    assert signal.delay_ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(replace(BEFORE, at=NOW), id="no time passed"),
        pytest.param(replace(BEFORE, at=NOW - 1), id="the clock stepped back"),
        pytest.param(replace(BEFORE, at=NOW + 0.04, cpu_s=10.02), id="too close for 10 ms ticks"),
        pytest.param(replace(BEFORE, at=NOW + 11, cpu_s=12.0), id="too far apart"),
        pytest.param(replace(BEFORE, at=NOW + 1, cpu_s=0.2), id="the guest was started again"),
        pytest.param(replace(BEFORE, at=NOW + 1, vcpu_s=8.0), id="a vCPU counter went back"),
        pytest.param(replace(BEFORE, at=NOW + 1, limit_cores=1.0), id="the limit changed between"),
    ],
)
def test_what_cannot_be_trusted_gives_no_signal(after: Sample) -> None:
    assert signal_between(BEFORE, after) is None


def test_no_limit_in_force_is_not_a_division_by_zero() -> None:
    before = replace(BEFORE, limit_cores=0.0)
    assert signal_between(before, replace(before, at=NOW + 1)) is None


def test_missing_delay_leaves_the_rest() -> None:
    signal = signal_between(BEFORE, replace(BEFORE, at=NOW + 1, cpu_s=10.2, vcpu_delay_s=None))
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
    limit_cores=st.sampled_from([0.0, 0.4, 1.0, 2.0]),
    vcpu_delay_s=st.none() | seconds,
)


@given(samples, st.floats(-1, 12), st.floats(-5, 50), st.floats(-5, 50), st.booleans())
def test_a_signal_never_comes_from_bad_counters(
    before: Sample, elapsed: float, cpu: float, vcpu: float, new_limit: bool
) -> None:
    after = replace(
        before,
        at=before.at + elapsed,
        cpu_s=before.cpu_s + cpu,
        vcpu_s=before.vcpu_s + vcpu,
        limit_cores=before.limit_cores + (0.1 if new_limit else 0.0),
    )
    signal = signal_between(before, after)
    good = (
        MIN_INTERVAL_S <= after.at - before.at <= MAX_INTERVAL_S
        and after.cpu_s >= before.cpu_s
        and after.vcpu_s >= before.vcpu_s
        and after.limit_cores == before.limit_cores > 0
    )
    assert (signal is not None) == good
    if signal is not None:
        assert math.isfinite(signal.utilisation)
        assert signal.utilisation >= 0
        assert signal.delay_ratio is None or signal.delay_ratio >= 0


ROW = {
    "cpu.time": 1_500_000_000,
    "vcpu.current": 2,
    "vcpu.0.time": 900_000_000,
    "vcpu.1.time": 500_000_000,
    "vcpu.0.delay": 30_000_000,
    "vcpu.1.delay": 10_000_000,
    "balloon.rss": 2048,
}


def test_a_row_of_libvirts_stats_as_a_sample() -> None:
    """1.5 s in all, 1.4 s of it by the two vCPUs: 0.1 s is QEMU's own overhead."""
    sample = sample_from_stats("web-1", 0.8, ROW, NOW)
    assert sample is not None
    assert sample.cpu_s == pytest.approx(1.5)
    assert sample.vcpu_s == pytest.approx(1.4)
    assert sample.vcpu_delay_s == pytest.approx(0.04)
    assert (sample.vcpus, sample.limit_cores, sample.memory_bytes) == (2, 0.8, 2 << 20)
    unlimited = sample_from_stats("web-1", None, ROW, NOW)
    assert unlimited is not None
    assert unlimited.limit_cores == 2, "without a limit: all its vCPUs"


@pytest.mark.parametrize("missing", ["cpu.time", "vcpu.current", "vcpu.1.time"])
def test_a_row_without_its_counters_is_no_sample(missing: str) -> None:
    assert (
        sample_from_stats("web-1", None, {k: v for k, v in ROW.items() if k != missing}, 1) is None
    )


def test_a_row_without_delays_is_still_a_sample() -> None:
    row = {k: v for k, v in ROW.items() if k != "vcpu.0.delay"}
    sample = sample_from_stats("web-1", None, row, NOW)
    assert sample is not None
    assert sample.vcpu_delay_s is None
